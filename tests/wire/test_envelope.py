from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from common.validation import describe
from wire.envelope import (
    DEFAULT_MAX_BYTES,
    DEFAULT_TIMEOUT_S,
    Delivery,
    Event,
    EventSchema,
    EventTarget,
    JobInput,
    Limits,
    ResultSchema,
    Upload,
    parse_job_input,
)
from wire.errors import AssetInvalid, InvalidParams

DEADLINE_MS = 1_700_000_000_123
STATS = {"duration_s": 5.0, "size_bytes": 10}
RESULT = {"outputs": {"video": {"size_bytes": 10}}, "stats": STATS}
ERROR = {"code": "asset_invalid", "message": "no", "retryable": False}


def delivery(**changes: Any) -> dict[str, Any]:
    full: dict[str, Any] = {
        "job_id": "job_1",
        "attempt_id": "att_1",
        "deadline": "2023-11-14T22:13:20.123Z",
        "limits": {"max_asset_bytes": 1, "max_output_bytes": 2, "timeout_s": 3},
        "uploads": {"video": {"url": "http://gateway:8000/files/x?s=1", "max_bytes": 4, "headers": {"a": "b"}}},
        "events": {"url": "http://127.0.0.1:8000/events/att_1", "token": "secret"},
    }
    return full | changes


def parse(**changes: Any) -> JobInput:
    return parse_job_input({"operation": "caption", "delivery": delivery(**changes)})


def event(**fields: Any) -> Event:
    loaded: Event = EventSchema().load({"claim_id": "claim-1234", **fields})
    return loaded


def test_the_whole_input_is_read() -> None:
    assert parse() == JobInput(
        "caption",
        {},
        Delivery(
            "job_1",
            "att_1",
            DEADLINE_MS,
            Limits(1, 2, 3),
            {"video": Upload("http://gateway:8000/files/x?s=1", 4, {"a": "b"})},
            EventTarget("http://127.0.0.1:8000/events/att_1", "secret"),
        ),
    )


@pytest.mark.parametrize("more", [{}, {"delivery": None}])
def test_an_input_typed_by_hand_needs_no_delivery(more: dict[str, Any]) -> None:
    params = {"url_video": "x", "anything": [1, {"a": None}]}
    assert parse_job_input({"operation": "caption", **params, **more}) == JobInput("caption", params)


def test_a_delivery_without_the_optional_parts_has_the_defaults() -> None:
    least = {"job_id": "j", "attempt_id": "a", "deadline": "2023-11-14T22:13:20.123Z"}
    got = parse_job_input({"operation": "caption", "delivery": least}).delivery
    assert got == Delivery("j", "a", DEADLINE_MS, Limits(DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S))


def test_unknown_keys_at_every_level_are_ignored() -> None:
    raw = delivery()
    for level in (raw, raw["limits"], raw["events"], raw["uploads"]["video"]):
        level["from_the_future"] = {"deep": 1}
    assert parse_job_input({"operation": "caption", "delivery": raw}) == parse()


def test_the_caller_s_input_is_left_as_it_was() -> None:
    raw = {"operation": "caption", "url_video": "x", "delivery": delivery()}
    parse_job_input(raw)
    assert raw == {"operation": "caption", "url_video": "x", "delivery": delivery()}


@pytest.mark.parametrize("raw", [None, [], "caption", 1, True, [{"operation": "caption"}]])
def test_an_input_that_is_no_object_is_refused(raw: object) -> None:
    with pytest.raises(InvalidParams, match="JSON object"):
        parse_job_input(raw)


@pytest.mark.parametrize("raw", [{}, {"operation": None}, {"operation": 5}, {"operation": ["caption"]}])
def test_the_operation_must_be_a_text(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match="operation: "):
        parse_job_input(raw)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"deadline": "tomorrow"}, "delivery.deadline"),
        ({"deadline": "2023-11-14T22:13:20"}, "delivery.deadline"),
        ({"deadline": 1_700_000_000}, "delivery.deadline"),
        ({"attempt_id": "../../etc/passwd"}, "delivery.attempt_id"),
        ({"attempt_id": "a\n"}, "delivery.attempt_id"),
        ({"attempt_id": ""}, "delivery.attempt_id"),
        ({"attempt_id": "a" * 65}, "delivery.attempt_id"),
        ({"job_id": 5}, "delivery.job_id"),
        ({"limits": {"timeout_s": 0}}, "delivery.limits.timeout_s"),
        ({"limits": {"max_asset_bytes": -1}}, "delivery.limits.max_asset_bytes"),
        ({"limits": {"max_output_bytes": "many"}}, "delivery.limits.max_output_bytes"),
        ({"limits": {"max_output_bytes": math.nan}}, "delivery.limits.max_output_bytes"),
        ({"limits": {"max_output_bytes": math.inf}}, "delivery.limits.max_output_bytes"),
        ({"limits": 3}, "delivery.limits"),
        ({"uploads": {"video": {"url": "ftp://x/y", "max_bytes": 1}}}, "delivery.uploads.video.value.url"),
        ({"uploads": {"video": {"url": "http://x/y"}}}, "delivery.uploads.video.value.max_bytes"),
        ({"uploads": {"../x": {"url": "http://x/y", "max_bytes": 1}}}, "delivery.uploads.../x.key"),
        (
            {"uploads": {"video": {"url": "http://x/y", "max_bytes": 1, "headers": {"a": 1}}}},
            "delivery.uploads.video.value.headers.a",
        ),
        ({"events": {"url": "file:///x", "token": "t"}}, "delivery.events.url"),
        ({"events": {"url": "http://x/y"}}, "delivery.events.token"),
        ({"events": []}, "delivery.events"),
    ],
)
def test_a_wrong_value_of_the_delivery_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse(**changes)
    assert named in caught.value.message


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_job_input({"delivery": delivery(deadline="x", limits={"timeout_s": -1})})
    assert all(name in caught.value.message for name in ("operation", "delivery.deadline", "delivery.limits.timeout_s"))


def test_the_token_is_not_repeated_in_a_message() -> None:
    with pytest.raises(InvalidParams) as caught:
        parse(events={"url": "no url", "token": "very-secret"}, deadline="x")
    assert "very-secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TIMES = st.sampled_from(["2023-11-14T22:13:20Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999-23:59", "", "Z"])
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.text() | JSON,
        "delivery": JSON
        | st.fixed_dictionaries(
            {"job_id": st.text(), "attempt_id": st.just("att_1") | JSON, "deadline": TIMES | JSON},
            optional={
                "limits": JSON | st.fixed_dictionaries({"timeout_s": JSON, "max_asset_bytes": JSON}),
                "uploads": JSON
                | st.fixed_dictionaries(
                    {"video": st.fixed_dictionaries({"url": st.text() | JSON, "max_bytes": JSON, "headers": JSON})}
                ),
                "events": JSON | st.fixed_dictionaries({"url": st.text() | JSON, "token": JSON}),
            },
        ),
        "params": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(JSON | ENVELOPES)
def test_nothing_but_invalid_params_comes_of_any_json(raw: object) -> None:
    try:
        assert isinstance(parse_job_input(raw), JobInput)
    except InvalidParams as error:
        assert error.message


def test_every_type_of_event_has_its_content() -> None:
    assert event(type="started") == Event("started", "claim-1234")
    assert event(type="progress", progress=0.5).progress == 0.5
    assert event(type="completed", result=RESULT).result == RESULT
    error = event(type="failed", error=ERROR).error
    assert isinstance(error, AssetInvalid) and error.message == "no"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "completed"}, "result"),
        ({"type": "failed"}, "error"),
        ({"type": "started", "result": RESULT}, "result"),
        ({"type": "progress", "error": ERROR}, "error"),
        ({"type": "failed", "error": ERROR, "result": RESULT}, "result"),
        ({"type": "completed", "result": {}}, "result.stats"),
        ({"type": "completed", "result": {**RESULT, "stats": {"duration_s": math.nan}}}, "result.stats.duration_s"),
        ({"type": "completed", "result": {"stats": STATS}}, "result.outputs"),
        ({"type": "completed", "result": {**RESULT, "outputs": {"A": {"size_bytes": 1}}}}, "result.outputs.A.key"),
        ({"type": "completed", "result": {**RESULT, "outputs": {"a": {"size_bytes": 0}}}}, "a.value.size_bytes"),
        ({"type": "completed", "result": {**RESULT, "result": {"a": "x" * 64_000}}}, "result.result"),
        ({"type": "completed", "result": {**RESULT, "result": ["no object"]}}, "result.result"),
        ({"type": "exploded"}, "type"),
        ({"type": "progress", "progress": 1.01}, "progress"),
        ({"type": "progress", "progress": -0.01}, "progress"),
        ({"type": "progress", "progress": math.nan}, "progress"),
        ({"type": "started", "claim_id": "short"}, "claim_id"),
        ({"type": "failed", "error": {**ERROR, "code": "NOT A CODE"}}, "error.code"),
        ({"type": "failed", "error": {**ERROR, "code": "a\n"}}, "error.code"),
        ({"type": "failed", "error": {**ERROR, "message": "x" * 2001}}, "error.message"),
    ],
)
def test_an_event_that_breaks_the_rules_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        event(**fields)
    assert f"{named}: " in describe(caught.value)


def test_an_event_that_names_no_claim_is_refused() -> None:
    with pytest.raises(ValidationError, match="claim_id"):
        EventSchema().load({"type": "started"})


def test_unknown_keys_of_a_newer_worker_are_ignored_in_events_and_results() -> None:
    got = event(
        type="completed",
        new=1,
        result={"new": 1, "outputs": {"video": {"size_bytes": 10, "new": 1}}, "stats": {**STATS, "new": 1}},
    )
    assert got == event(type="completed", result=RESULT)


def test_a_result_has_only_the_declared_fields() -> None:
    document = ResultSchema().dump(
        {"outputs": {"video": {"size_bytes": 5, "path": "/o.mp4"}}, "stats": {**STATS, "frames": None}, "private": 1}
    )
    assert document == {"outputs": {"video": {"size_bytes": 5, "path": "/o.mp4"}}, "stats": {**STATS, "frames": None}}
