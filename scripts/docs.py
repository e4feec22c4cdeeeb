"""Generates the documentation that comes from the code; `--check` only reports whether it is stale.

`.env.example`, the inputs to try a worker with (`handler/test_inputs/`, `.runpod/tests.json`), the Hub's copy of
`Dockerfile.worker`, and in Markdown files everything between `<!-- made by scripts.docs: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields, missing, validate

from common.settings import example, variables
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.operation import OPERATIONS, Operation
from gateway.providers.registry import PROVIDERS
from gateway.providers.runpod.endpoint import estimate
from gateway.providers.runpod.endpoint.form import FORM, shown
from gateway.providers.runpod.endpoint.plan import at
from gateway.providers.runpod.endpoint.wanted import Wanted, load
from gateway.providers.runpod.gpus import POOLS, dollars
from gateway.settings import Settings as GatewaySettings
from handler.settings import Settings as WorkerSettings
from wire import errors

ROOT = Path(__file__).parent.parent
# Small example files hosted by MDN, which any worker can fetch.
PUBLIC = {
    "video": "https://mdn.github.io/shared-assets/videos/flower.mp4",
    "image": "https://mdn.github.io/shared-assets/images/examples/balloon.jpg",
    "audio": "https://mdn.github.io/shared-assets/audio/t-rex-roar.mp3",
    "media": "https://mdn.github.io/shared-assets/videos/flower.mp4",
}
_PART = re.compile(r"(<!-- made by scripts\.docs: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}")
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv else 0


def generated() -> dict[Path, str]:
    """The content of every generated file."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {
        ROOT / ".env.example": env_example(),
        ROOT / ".runpod/tests.json": _json(hub_tests()),
        ROOT / ".runpod/Dockerfile": (ROOT / "Dockerfile.worker").read_text(),
        **{
            ROOT / f"handler/test_inputs/{op.name}.json": _json({"input": test_input(op)}) for op in OPERATIONS.values()
        },
        **{page: _PART.sub(lambda part: part[1] + PARTS[part[2]]() + part[3], page.read_text()) for page in pages},
    }


def env_example() -> str:
    """Every variable with its meaning and default."""
    head = "# Copy to .env and change what you need; what is commented out has the default that is shown.\n\n"
    return head + "\n".join(f"# ---- {name.capitalize()} ----\n\n{example(cls)}" for name, cls in settings().items())


def settings() -> dict[str, type[Any]]:
    """All classes of settings, by their owner."""
    of_providers = {f"provider {name}": provider.settings for name, provider in PROVIDERS.items()}
    return {"gateway": GatewaySettings, **of_providers, "worker": WorkerSettings}


def test_input(operation: Operation) -> dict[str, Any]:
    """Input that any worker can run: the first example for whose files PUBLIC has replacements."""
    named = (
        (example, operation.named_assets(operation.params().load(dict(example)))) for example in operation.examples
    )
    example, assets = next((e, assets) for e, assets in named if all(asset.kind in PUBLIC for asset in assets))
    return {"operation": operation.name, **with_urls(example, {asset.path: PUBLIC[asset.kind] for asset in assets})}


def with_urls(value: Any, urls: Mapping[str, str], path: str = "") -> Any:
    """`value`, which is JSON, with `urls` at these paths: `url_video`, `scenes[2].url_image`."""
    if isinstance(value, Mapping):
        return {name: with_urls(item, urls, f"{path}.{name}" if path else name) for name, item in value.items()}
    if isinstance(value, list):
        return [with_urls(item, urls, f"{path}[{i}]") for i, item in enumerate(value)]
    return urls.get(path, value)


def hub_tests() -> dict[str, Any]:
    """The tests that RunPod's Hub runs on every release."""
    tests = [{"name": op.name, "input": test_input(op), "timeout": 120_000} for op in OPERATIONS.values()]
    hub = json.loads((ROOT / ".runpod/hub.json").read_text())["config"]
    env = [{"key": e["key"], "value": e["input"]["default"]} for e in hub["env"]]
    machine = {"gpuTypeId": "NVIDIA GeForce RTX 4090", "gpuCount": 1, "env": env}
    return {"tests": tests, "config": {**machine, "allowedCudaVersions": hub["allowedCudaVersions"]}}


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def operations_table() -> str:
    rows = ["| Route | What it does | Fields (bold: required) |", "|---|---|---|"]
    rows += [
        f"| `POST /video/{op.name}` | {op.summary} | {', '.join(_field(n, f) for n, f in op.params().fields.items())} |"
        for op in OPERATIONS.values()
    ]
    return "\n".join(rows) + "\n"


def operations_reference() -> str:
    return "\n".join(_operation(operation) for operation in OPERATIONS.values())


def job_errors() -> str:
    others = _errors(errors.WorkerFault, "yes", head=False) + _errors(errors.GatewayError, "no", head=False)
    return _errors(errors.JobFault, "no") + others


def request_errors() -> str:
    from gateway.errors import RequestError

    kinds = [cls for cls in errors.CODES.values() if issubclass(cls, RequestError)]
    rows = ["| Code | HTTP status | Meaning | What to do |", "|---|---|---|---|"]
    rows += [
        f"| `{cls.code}` | {cls.status} | {cls.text} | {cls.remedy} |"
        for cls in sorted(kinds, key=lambda cls: (cls.status, cls.code))
    ]
    return "\n".join(rows) + "\n"


def stats_table() -> str:
    from gateway.api.job_document import JobStatsSchema

    rows = ["| Field | Meaning |", "|---|---|"]
    rows += [f"| `{name}` | {field.metadata['description']} |" for name, field in JobStatsSchema().fields.items()]
    return "\n".join(rows) + "\n"


def settings_table() -> str:
    lines = ["| Variable | Of | Default | Meaning |", "|---|---|---|---|"]
    for owner, cls in settings().items():
        for name, f in variables(cls).items():
            default = "" if f.default in {None, ""} else f"`{f.default}`"
            lines.append(f"| `{name}` | {owner} | {default} | {f.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def runpod_form() -> str:
    body = _runpod().body
    rows = ["| Field | Value | Why |", "|---|---|---|"]
    for path, field in FORM.items():
        value = at(body, path)
        text = "<br>".join(f"`{k}={v}`" for k, v in value.items()) if path == "env" else f"`{shown(path, value)}`"
        rows.append(f"| {field.label} | {text.replace('`—`', 'none')} | {field.why} |")
    return "\n".join(rows) + "\n"


def runpod_costs() -> str:
    idle_s = _runpod().body["workers"]["idleTimeout"]
    rows = estimate.rows(tuple(POOLS.values()), 1, idle_s, None)
    lines = [f"| {' | '.join(estimate.head(idle_s))} | NVENC |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| `{row[0]}` | {' | '.join(row[1:])} | {'yes' if pool.nvenc else '**no**'} |"
        for row, pool in zip(rows, POOLS.values(), strict=True)
    ]
    return "\n".join(lines) + "\n"


def runpod_example() -> str:
    """The cost of a hundred jobs, separate and consecutive, on the preferred pool."""
    wanted = _runpod()
    pool, idle_s, job_s, jobs = wanted.pools[0], wanted.body["workers"]["idleTimeout"], estimate.EXAMPLE_JOB_S, 100
    alone, together = jobs * (job_s + idle_s), jobs * job_s + idle_s
    return (
        f"A hundred jobs of {job_s} s on `{pool.name}` ({dollars(pool.price)} a second):\n\n"
        "| Jobs | Billed | Cost |\n|---|---|---|\n"
        f"| each more than {idle_s} s after the previous one | {jobs} × ({job_s} + {idle_s}) s = {alone} s "
        f"| {dollars(alone * pool.price)} |\n"
        f"| one after the other | {jobs} × {job_s} + {idle_s} s = {together} s | {dollars(together * pool.price)} |\n\n"
        f"That is {alone / together:.0f} times the price for the same videos; "
        f"{100 * idle_s / (idle_s + job_s):.0f} % of the price of a single job is idle time.\n"
    )


def _runpod() -> Wanted:
    return load(ROOT / "runpod.toml", image="your-account/reelay-worker:0.1.0")


PARTS: Mapping[str, Callable[[], str]] = {
    "operations-table": operations_table,
    "operations-reference": operations_reference,
    "job-errors": job_errors,
    "request-errors": request_errors,
    "stats-table": stats_table,
    "settings-table": settings_table,
    "runpod-form": runpod_form,
    "runpod-costs": runpod_costs,
    "runpod-example": runpod_example,
}


def _errors(root: type[errors.JobError], retried: str, *, head: bool = True) -> str:
    rows = ["| Code | Retried | Meaning | What to do |", "|---|---|---|---|"] if head else []
    rows += [
        f"| `{cls.code}` | {retried} | {cls.text} | {cls.remedy} |"
        for cls in errors.CODES.values()
        if issubclass(cls, root)
    ]
    return "\n".join(rows) + "\n"


def _field(name: str, field: fields.Field[Any]) -> str:
    if field.required:
        return f"**{name}**"
    return name if field.load_default is missing else f"{name}={_value(field.load_default)}"


def _value(default: object) -> str:
    if default is None or isinstance(default, bool):
        return {None: "none", True: "true", False: "false"}[default]
    return f"{default:g}" if isinstance(default, float) else str(default)


def _operation(operation: Operation) -> str:
    schema: Schema = operation.params()
    head = [f"### {operation.name}", "", operation.doc, ""]
    return "\n".join([*head, *_fields_table(schema), *_nested_tables(schema)]) + "\n"


def _fields_table(schema: Schema) -> list[str]:
    rows = ["| Field | Kind | Default | Meaning |", "|---|---|---|---|"]
    for name, field in schema.fields.items():
        default = "" if field.load_default is missing else f"`{_value(field.load_default)}`"
        default = "required" if field.required else default
        rows.append(f"| `{name}` | {_kind(field)} | {default} | {field.metadata['description']} |")
    return rows


def _nested_tables(schema: Schema) -> list[str]:
    """A table for every field, at any depth, that is an object or a list of objects of its own; equal ones once."""
    lines: list[str] = []
    for inner, paths in _nested(schema, "").items():
        names = " and ".join(f"`{path.removesuffix('[]')}`{', each' if path.endswith('[]') else ''}" for path in paths)
        lines += ["", f"{names}:", "", *_fields_table(inner())]
    return lines


def _nested(schema: Schema, path: str) -> dict[type[Schema], list[str]]:
    """The schemas of the fields below `schema`, each with the paths of its fields."""
    found: dict[type[Schema], list[str]] = {}
    for name, field in schema.fields.items():
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(inner, fields.Nested):
            at = f"{path}{name}{'[]' if inner is not field else ''}"
            found.setdefault(type(inner.schema), []).append(at)
            for below, paths in _nested(inner.schema, f"{at}.").items():
                found.setdefault(below, []).extend(paths)
    return found


def _kind(field: fields.Field[Any]) -> str:
    if isinstance(field, Asset):
        return f"URL of {field.kind}"
    if isinstance(field, fields.List):
        return f"list of {_kind(field.inner)}s"
    if isinstance(field, fields.Nested):
        return "object"
    if choices := [rule for rule in field.validators if isinstance(rule, validate.OneOf)]:
        return ", ".join(f"`{choice}`" for choice in choices[0].choices)
    limits = "; ".join(_range(rule) for rule in field.validators if isinstance(rule, validate.Range))
    return f"number, {limits}" if limits else type(field).__name__.lower().replace("string", "text")


def _range(rule: validate.Range) -> str:
    low = f"{'' if rule.min_inclusive else 'more than '}{rule.min}"
    return f"{low} to {rule.max}"


if __name__ == "__main__":
    sys.exit(main())
