from __future__ import annotations

import json
import re

import pytest

from gateway import errors as request_errors
from gateway.errors import RequestError
from wire import errors
from wire.errors import CODES, JobError, JobFault, ReelayError, Stopped, WorkerFault, job_error_from_wire

ABSTRACT = {"ReelayError", "JobError", "JobFault", "WorkerFault", "Stopped", "RequestError"}
CONCRETE = sorted(CODES.values(), key=lambda cls: cls.code)
JOB_ERRORS = [cls for cls in CONCRETE if issubclass(cls, JobError)]


def every_class() -> dict[str, type[ReelayError]]:
    """All errors of both modules, whether they have a code or not."""
    both = {**vars(errors), **vars(request_errors)}
    return {c.__name__: c for c in both.values() if isinstance(c, type) and issubclass(c, ReelayError)}


def test_every_class_but_the_branches_has_a_code() -> None:
    assert {cls.__name__ for cls in CONCRETE} == set(every_class()) - ABSTRACT


@pytest.mark.parametrize("cls", CONCRETE)
def test_code_is_a_stable_word_made_from_the_class_name(cls: type[ReelayError]) -> None:
    assert cls.code == re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@pytest.mark.parametrize("cls", CONCRETE)
def test_the_text_of_every_error_is_a_sentence(cls: type[ReelayError]) -> None:
    assert re.fullmatch(r"[A-Z].*[.X]|[A-Z].*\)\.|[A-Z].*X-API-Key\.", cls.text)
    assert str(cls()) == cls().message == cls.text


def test_two_classes_cannot_share_a_code() -> None:
    with pytest.raises(TypeError, match="superseded"):
        type("Other", (JobError,), {}, code="superseded")
    assert CODES["superseded"] is errors.Superseded


def test_a_class_without_a_code_of_its_own_takes_none_from_its_parent() -> None:
    before = dict(CODES)
    type("Special", (errors.AssetInvalid,), {})
    assert before == CODES


def test_the_drawn_tree_lists_exactly_the_classes_that_exist() -> None:
    drawing = (
        f"{errors.__doc__}{request_errors.__doc__}".replace("Each class has", "")
        .replace("An error has", "")
        .replace("└── RequestError", "", 1)
    )
    drawn = re.findall(r"\b[A-Z][a-z]+[A-Za-z]*[a-z]\b", drawing)
    names = [word for word in drawn if word in every_class() or re.search("[a-z][A-Z]", word)]
    assert sorted(names) == sorted(every_class())


def test_the_drawn_tree_puts_every_class_under_its_parent() -> None:
    branch = ""
    for line in f"{errors.__doc__}{request_errors.__doc__}".splitlines():
        words = re.findall(r"[A-Z][A-Za-z]+", line.split("  an ")[0])
        for word in words:
            if word in ABSTRACT:
                branch = word
            elif word in every_class() and ("──" in line):
                assert issubclass(every_class()[word], every_class()[branch]), word


@pytest.mark.parametrize("cls", JOB_ERRORS)
def test_every_job_error_survives_the_wire(cls: type[JobError]) -> None:
    sent = cls("what happened", detail="for the log")
    back = job_error_from_wire(**json.loads(json.dumps(sent.to_wire())))
    assert type(back) is cls
    assert (back.code, back.message, back.retryable) == (cls.code, "what happened", cls.retryable)


def test_the_detail_never_travels() -> None:
    assert "for the log" not in json.dumps(errors.EncodeFailed(detail="for the log").to_wire())


def test_only_faults_of_workers_are_retryable() -> None:
    assert all(cls.retryable is issubclass(cls, WorkerFault) for cls in JOB_ERRORS)


@pytest.mark.parametrize(("retryable", "parent"), [(True, WorkerFault), (False, JobFault)])
def test_an_unknown_code_is_classed_by_retryable_and_keeps_its_name(retryable: bool, parent: type[JobError]) -> None:
    error = job_error_from_wire("gpu_on_fire", "It burns.", retryable)
    assert type(error) is parent
    assert error.to_wire() == {"code": "gpu_on_fire", "message": "It burns.", "retryable": retryable}
    assert parent.code == "", "the class itself stays as it was"


def test_the_class_of_a_known_code_decides_whether_it_is_retryable() -> None:
    assert job_error_from_wire("asset_invalid", "x", True).retryable is False


@pytest.mark.parametrize("code", sorted(c.code for c in CONCRETE if issubclass(c, RequestError)))
def test_a_worker_cannot_report_an_error_of_the_http_api(code: str) -> None:
    error = job_error_from_wire(code, "x", True)
    assert isinstance(error, WorkerFault) and not isinstance(error, RequestError)


def test_a_stopped_attempt_is_neither_fault() -> None:
    assert not issubclass(Stopped, (JobFault, WorkerFault))
    assert not Stopped.retryable


def test_validation_failed_names_fields() -> None:
    error = request_errors.ValidationFailed("two wrong", errors={"duration": ["Too long."]})
    assert (error.message, error.errors) == ("two wrong", {"duration": ["Too long."]})
    assert request_errors.ValidationFailed().errors == {}
