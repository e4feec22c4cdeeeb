"""The mutations. Each one removes a single promise, so at least one of its tests must fail.

A refactoring that moves or rewords the code updates the entry here: `path`, `before` and `after` for code that moved,
`tests` for tests that moved. Prefer whole test files, and node ids only where a file is slow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One promise of the product and the edit that removes it."""

    #: Unique name in kebab case; says what goes wrong.
    name: str
    #: What the product promises.
    promise: str
    #: The file to change, relative to the repository root.
    path: str
    #: The text to replace. It must occur exactly once in the file.
    before: str
    #: Its replacement. The file must still be valid Python.
    after: str
    #: Pytest arguments (files or node ids) that select the tests that should notice.
    tests: tuple[str, ...]


MUTATIONS = (
    # Gateway: jobs and the database
    Mutation(
        "lease-token-not-compared",
        "Only the holder of a job's lease reads it for a change",
        "gateway/db/statements.py",
        "LEASED_JOB = LOCKED_JOB.where(jobs.c.lease_token == TOKEN)",
        "LEASED_JOB = LOCKED_JOB",
        ("tests/gateway/db/test_store.py",),
    ),
    Mutation(
        "attempt-begun-without-lease",
        "Only the holder of a job's lease begins an attempt",
        "gateway/db/statements.py",
        'BEGIN_ATTEMPT = save(jobs, frozenset({"attempt_id"}), leased=True)',
        'BEGIN_ATTEMPT = save(jobs, frozenset({"attempt_id"}))',
        ("tests/gateway/db/test_store.py",),
    ),
    Mutation(
        "stale-result-written",
        "A result that comes after the lease was lost changes no row",
        "gateway/db/statements.py",
        "return query.where(table.c.lease_token == TOKEN) if leased else query",
        "return query",
        ("tests/gateway/db/test_store.py",),
    ),
    Mutation(
        "commit-not-synced",
        "SQLite waits for the disk at every commit",
        "gateway/db/engine.py",
        "PRAGMA synchronous=FULL",
        "PRAGMA synchronous=OFF",
        ("tests/gateway/db/test_sqlite.py",),
    ),
    Mutation(
        "webhook-after-commit",
        "The transaction that ends a job also writes its webhook",
        "gateway/db/transaction.py",
        "            self._insert_webhook(hooks.due(job, job.finished_at or 0))\n",
        """\
            owed, later = hooks.due(job, job.finished_at or 0), Store(self.connection.engine)
            threading.Thread(target=lambda: later.together(lambda tx: tx._insert_webhook(owed))).start()
""",
        ("tests/gateway/db/test_store.py",),
    ),
    Mutation(
        "claim-accepted-twice",
        "One worker per attempt: a second claim is refused",
        "gateway/domain/transitions.py",
        "if attempt.claim_id == claim_id and _wanted(job, attempt):",
        "if attempt.claim_id is not None and _wanted(job, attempt):",
        ("tests/gateway/domain/test_transitions.py", "tests/gateway/api/test_job_service.py"),
    ),
    Mutation(
        "event-without-claim-accepted",
        "Only the worker that holds the claim may report progress or an end",
        "gateway/domain/transitions.py",
        "if attempt.claim_id != claim_id or not _wanted(job, attempt):",
        "if not _wanted(job, attempt):",
        ("tests/gateway/domain/test_transitions.py", "tests/gateway/api/test_event_routes.py"),
    ),
    Mutation(
        "attempt-not-charged",
        "An attempt that a worker reports as ended is charged",
        "gateway/dispatch/attempt_writer.py",
        "if written.attempt_ended and price is not None:",
        "if False:",
        ("tests/gateway/access/test_quotas.py",),
    ),
    Mutation(
        "foreign-job-shown",
        "A job is visible to its own key only",
        "gateway/api/job_service.py",
        "if job is None or job.key_id != key_id:",
        "if job is None:",
        ("tests/gateway/api/test_job_service.py",),
    ),
    Mutation(
        "output-not-checked",
        "A result counts only if the stored file has the size that the worker reported",
        "gateway/dispatch/output_check.py",
        "if stored != size:",
        "if False:",
        ("tests/gateway/dispatch/test_reports.py", "tests/gateway/api/test_event_routes.py"),
    ),
    Mutation(
        "spending-not-counted",
        "What an attempt costs counts towards its key's daily limit",
        "gateway/dispatch/attempt_writer.py",
        "    if attempt.cost_nano:\n",
        "    if False:\n",
        ("tests/gateway/access/test_quotas.py",),
    ),
    # Gateway: dispatching
    Mutation(
        "lost-submit-sent-again",
        "A submit whose answer was lost is polled, not sent again",
        "gateway/dispatch/step.py",
        "if attempt.state is AttemptState.INTENT and attempt.sent_at is None:",
        "if attempt.state is AttemptState.INTENT:",
        ("tests/gateway/dispatch/test_submit.py",),
    ),
    Mutation(
        "rotation-locks-out-workers",
        "Workers that began before SECRET_KEY was rotated are still driven",
        "gateway/providers/worker_client.py",
        "        for credentials in self._credentials:\n            if hmac",
        "        for credentials in self._credentials[:1]:\n            if hmac",
        ("tests/gateway/providers/test_worker_client_tls.py",),
    ),
    Mutation(
        "absence-counts-as-silence",
        "A worker is not taken for dead because no gateway ran that could hear it",
        "gateway/dispatch/limits.py",
        "if now - max(attempt.heard_at or 0, listening_since) > SILENCE_MS:",
        "if now - (attempt.heard_at or 0) > SILENCE_MS:",
        ("tests/gateway/dispatch/test_limits.py",),
    ),
    Mutation(
        "chore-without-lease",
        "One gateway at a time reconciles rentals and cleans up",
        "gateway/dispatch/loop.py",
        "held = [name for name in free if tx.hold(name, self._id, now, now + CHORE_MS)]",
        "held = free",
        (
            "tests/gateway/dispatch/test_loop.py::test_one_gateway_at_a_time_reconciles",
            "tests/gateway/dispatch/test_loop.py::test_one_gateway_at_a_time_cleans_up",
        ),
    ),
    Mutation(
        "webhook-body-not-signed",
        "A webhook's signature covers its body",
        "gateway/webhooks/message.py",
        'signed = f"{webhook_id}.{timestamp}.".encode() + body',
        'signed = f"{webhook_id}.{timestamp}.".encode()',
        ("tests/gateway/webhooks/test_sender.py",),
    ),
    # Gateway: access and storage
    Mutation(
        "signature-not-checked",
        "A token or signed URL that the gateway did not sign opens nothing",
        "gateway/signing.py",
        "return self._serializer(purpose).loads(token)",
        "return self._serializer(purpose).loads_unsafe(token)[1]",
        ("tests/gateway/test_signing.py", "tests/gateway/storage/test_local.py"),
    ),
    Mutation(
        "revoked-key-accepted",
        "A revoked key is refused",
        "gateway/access/keys.py",
        "return (current or previous) and key.revoked_at is None",
        "return current or previous",
        ("tests/gateway/access/test_keys.py",),
    ),
    Mutation(
        "spent-day-ignored",
        "No attempt starts after the key has spent its day's limit",
        "gateway/access/quotas.py",
        "spent = self._store.spent_today(key_id, now) >= self._limit_nano",
        "spent = False",
        ("tests/gateway/access/test_quotas.py",),
    ),
    Mutation(
        "flood-takes-memory",
        "Rate limits take bounded memory however many addresses call",
        "gateway/access/rate_limits.py",
        "known = name in self._counts or len(self._counts) < MAX_NAMES",
        "known = True",
        ("tests/gateway/access/test_rate_limits.py",),
    ),
    Mutation(
        "needed-upload-removed",
        "An upload stays while an unfinished job needs it",
        "gateway/upkeep/janitor.py",
        "return [key for key in old if not any(key in params for params in needed)]",
        "return old",
        ("tests/gateway/upkeep/test_janitor.py::test_an_upload_stays_while_a_job_needs_it",),
    ),
    Mutation(
        "file-not-synced",
        "A file is on the disk before it gets its name",
        "gateway/storage/local.py",
        "            os.fsync(file.fileno())\n",
        "",
        ("tests/gateway/storage/test_local.py",),
    ),
    Mutation(
        "foreign-file-served",
        "A signature opens its own file and no other key's",
        "gateway/storage/local.py",
        'return f"file:{key}"',
        'return "file"',
        ("tests/gateway/storage/test_local.py", "tests/gateway/api/test_file_routes.py"),
    ),
    Mutation(
        "s3-url-outlives-attempt",
        "A signed S3 URL ends at its deadline",
        "gateway/storage/s3.py",
        "ExpiresIn=max(1, min(lives_s, MAX_TTL_S))",
        "ExpiresIn=MAX_TTL_S",
        ("tests/gateway/storage/test_storage.py",),
    ),
    Mutation(
        "upload-not-bounded",
        "A body over the signed or configured size is refused",
        "gateway/api/file_routes.py",
        "    if length > max_bytes:\n",
        "    if False:\n",
        ("tests/gateway/api/test_file_routes.py",),
    ),
    # Gateway: rented machines
    Mutation(
        "rental-forgotten",
        "A machine counts as destroyed only on proof; an accepted DELETE is none",
        "gateway/providers/rental/destroyer.py",
        "return move(i, Stage.GONE, now) if gone else i",
        "return move(i, Stage.GONE, now)",
        (
            "tests/gateway/providers/rental/test_destroyer.py::test_a_destroy_is_repeated_until_there_is_proof",
            "tests/gateway/providers/rental/test_destroyer.py::test_a_wrong_key_proves_no_end",
        ),
    ),
    Mutation(
        "foreign-machine-swept",
        "A machine with another label is never destroyed",
        "gateway/providers/rental/reconciliation.py",
        "{id_: machine for id_, machine in machines.items() if labels.ours(machine.label, deployment)}",
        "dict(machines)",
        (
            "tests/gateway/providers/rental/test_reconciliation.py::test_what_has_another_label_is_reported_and_never_touched",
        ),
    ),
    Mutation(
        "foreign-machine-reaped",
        "The reaper destroys machines of its own deployment only",
        "gateway/providers/clouds/vast/reap.py",
        'if found is None or found["deployment"] != deployment:',
        "if found is None:",
        ("tests/gateway/providers/clouds/vast/test_reap.py",),
    ),
    Mutation(
        "worker-proof-not-checked",
        "A worker gets no token before it has proved its certificate",
        "gateway/providers/worker_client.py",
        "if not (isinstance(given, str) and given.isascii() and hmac.compare_digest(given, expected)):",
        "if not (isinstance(given, str) and expected):",
        ("tests/gateway/providers/test_worker_client_tls.py",),
    ),
    # Worker
    Mutation(
        "asset-url-logged",
        "No secret in an asset's URL reaches a log or an error",
        "handler/fetch.py",
        "detail=http_client.error_classes(error)",
        "detail=str(error)",
        ("tests/handler/test_attempt.py::test_no_secret_reaches_the_log_when_a_connection_fails",),
    ),
    Mutation(
        "large-output-sent",
        "An output over its limit is not uploaded",
        "handler/upload.py",
        "    if size > target.max_bytes:\n",
        "    if False:\n",
        ("tests/handler/test_upload.py",),
    ),
    Mutation(
        "output-type-not-checked",
        "An output of another type than the operation declares is a failure",
        "handler/outputs.py",
        "        if not is_of(content, media_type):\n",
        "        if False:\n",
        ("tests/handler/test_outputs.py",),
    ),
    Mutation(
        "outputs-not-bounded-together",
        "MAX_OUTPUT_BYTES is the limit of all outputs together",
        "handler/outputs.py",
        "    if total > limit:\n",
        "    if False:\n",
        ("tests/handler/test_outputs.py",),
    ),
    Mutation(
        "assets-not-bounded-together",
        "MAX_JOB_ASSETS_BYTES is the limit of all assets together",
        "handler/fetch.py",
        "        if size > limit:\n",
        "        if False:\n",
        ("tests/handler/test_fetch.py",),
    ),
    Mutation(
        "failed-outputs-kept",
        "What an attempt stored that did not succeed is removed",
        "gateway/upkeep/janitor.py",
        'key.split("/")[2] == job.attempt_id',
        "True",
        ("tests/gateway/api/test_outputs.py",),
    ),
    Mutation(
        "work-without-claim",
        "A worker does nothing before it holds the claim",
        "handler/attempt.py",
        "        _interruptible(reporter.claim, stop)\n",
        "",
        ("tests/handler/test_events.py",),
    ),
    Mutation(
        "lost-claim-ignored",
        "A worker stops when the gateway says that the attempt is no longer its own",
        "handler/events.py",
        "                    self._stop.set(error)\n",
        "",
        ("tests/handler/test_attempt_stop.py",),
    ),
    Mutation(
        "unset-secret-opens",
        "A worker whose secret is not set admits no caller",
        "handler/http_worker.py",
        "return bool(expected) and hmac.compare_digest(",
        "return hmac.compare_digest(",
        ("tests/handler/test_http_worker.py::test_a_setting_that_is_not_set_matches_no_caller",),
    ),
    Mutation(
        "restart-extends-lifetime",
        "No restart extends a rented machine's lifetime",
        "handler/dead_man_switch.py",
        "{clock: min(own, float(before[clock])) for clock, own in self._at.items()}",
        "{clock: max(own, float(before[clock])) for clock, own in self._at.items()}",
        ("tests/handler/test_dead_man_switch.py",),
    ),
    Mutation(
        "private-key-kept",
        "The key of the worker's certificate does not stay on the disk",
        "handler/certificate.py",
        "    with tempfile.TemporaryDirectory() as folder:\n",
        "    for folder in [tempfile.mkdtemp()]:\n",
        ("tests/handler/test_certificate.py",),
    ),
    # Wire
    Mutation(
        "inside-address-dialled",
        "A client's URL never reaches a non-public address",
        "common/safe_http.py",
        'if not is_public(host_params["host"]):',
        "if False:",
        ("tests/common/test_safe_http_addresses.py::test_no_private_address_is_called",),
    ),
    Mutation(
        "redirect-not-checked",
        "Every redirect is checked like the first URL",
        "common/safe_http.py",
        "        url = target\n",
        """\
        where = urlsplit(target)
        url, http = target, session([f"{where.scheme}://{where.netloc}"])
""",
        ("tests/common/test_safe_http_addresses.py::test_a_redirect_to_a_private_address_is_refused_at_any_hop",),
    ),
    Mutation(
        "download-not-bounded",
        "A download of untold length is cut at the limit",
        "common/safe_http.py",
        "                if self.size > self._max_bytes:\n",
        "                if False:\n",
        (
            "tests/common/test_safe_http.py::test_a_body_without_length_is_cut_at_the_limit",
            "tests/common/test_safe_http.py::test_a_chunked_body_is_whole_and_cut_at_the_limit",
        ),
    ),
    Mutation(
        "headers-without-deadline",
        "Headers that trickle meet the time-out of the call",
        "common/safe_http.py",
        "with after(timeout, cut):",
        "with after(3600, cut):",
        ("tests/common/test_safe_http.py::test_what_trickles_meets_the_deadline[headers]",),
    ),
    Mutation(
        "claim-id-optional",
        "Every event names the claim of its worker",
        "wire/envelope.py",
        "claim_id = fields.String(required=True, validate=validate.Length(min=8, max=64))",
        'claim_id = fields.String(load_default="unclaimed", validate=validate.Length(min=8, max=64))',
        ("tests/wire/test_envelope.py",),
    ),
    # Operations
    Mutation(
        "ffmpeg-not-confined",
        "FFmpeg reaches no network and no file but its own",
        "ffmpeg_ops/engine/process.py",
        "            sandbox.confine(directory, _readable(command), reduced=reduced)\n",
        "",
        ("tests/ffmpeg_ops/engine/test_sandbox.py",),
    ),
    Mutation(
        "group-not-killed",
        "A stop kills FFmpeg and everything that it started",
        "ffmpeg_ops/engine/process.py",
        "os.killpg(process.pid, signal.SIGKILL)",
        "process.kill()",
        ("tests/ffmpeg_ops/engine/test_process.py::test_a_stop_kills_what_the_process_started_too",),
    ),
    Mutation(
        "frames-not-verified",
        "An output with other than the promised number of frames is a failure",
        "ffmpeg_ops/engine/output.py",
        'if (there := tracks(work)["vide"].packets) != frames:',
        'if not (there := tracks(work)["vide"].packets):',
        ("tests/ffmpeg_ops/engine/test_mp4.py",),
    ),
    Mutation(
        "frames-reordered-by-old-ffmpeg",
        "NVENC gives every frame its exact time with an FFmpeg that cannot time reordered frames",
        "ffmpeg_ops/engine/encoders.py",
        'Feature(("-bf", "3"), "Max B-frames", instead=("-bf", "0"), since=7)',
        'Feature(("-bf", "3"), "Max B-frames", instead=("-bf", "0"), since=0)',
        ("tests/ffmpeg_ops/test_nvenc.py",),
    ),
    Mutation(
        "playlist-opened",
        "A playlist opens neither the network nor another file",
        "ffmpeg_ops/engine/ffmpeg.py",
        '"-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, ',
        "",
        (
            "tests/ffmpeg_ops/engine/test_inspect.py::test_a_script_does_not_open_the_files_that_it_names",
            "tests/ffmpeg_ops/engine/test_inspect.py::test_a_playlist_does_not_reach_the_network",
            "tests/ffmpeg_ops/test_limits.py::test_every_command_has_its_limits",
        ),
    ),
    Mutation(
        "large-picture-decoded",
        "A picture that is too large to decode is refused",
        "ffmpeg_ops/engine/inspect.py",
        "if stream.width * stream.height > MAX_PICTURE:",
        "if False:",
        ("tests/ffmpeg_ops/test_limits.py::test_a_picture_that_is_too_large_is_refused_at_once",),
    ),
    Mutation(
        "hanging-gpu-waited-for",
        "A GPU that makes no progress is given up for the CPU",
        "ffmpeg_ops/engine/ffmpeg.py",
        "if time.monotonic() - self._moved_at > self._stall_s:",
        "if False:",
        (
            "tests/ffmpeg_ops/engine/test_ladder.py::test_whatever_the_gpu_does_the_client_gets_one_video_and_one_warning",
        ),
    ),
    Mutation(
        "crashed-gpu-fails-job",
        "A GPU encode that a signal kills is repeated on the CPU",
        "ffmpeg_ops/engine/encoder_errors.py",
        "return Failure(error.reason) if on_gpu or error.reason == ffmpeg.WRONG_TIMES else None",
        "return None",
        (
            "tests/ffmpeg_ops/engine/test_ladder.py::test_whatever_the_gpu_does_the_client_gets_one_video_and_one_warning",
        ),
    ),
    Mutation(
        "cpu-replaces-required-gpu",
        "With GPU_ENCODER=require the CPU does not replace a GPU that refuses",
        "ffmpeg_ops/engine/ladder.py",
        'if encoder.device == "gpu" and self._work.requires_gpu and failure.blame is not Blame.MEDIA:',
        "if False:",
        ("tests/ffmpeg_ops/engine/test_ladder.py::test_a_required_gpu_that_does_not_encode_fails_the_attempt",),
    ),
    Mutation(
        "refusal-uses-up-a-try",
        "A machine without an encoder does not use up a try of the job",
        "gateway/domain/transitions.py",
        "job = replace(job, tries=max(0, job.tries - 1), encoder_refusals=job.encoder_refusals + 1)",
        "job = replace(job, encoder_refusals=job.encoder_refusals + 1)",
        ("tests/gateway/domain/test_transitions.py", "tests/gateway/dispatch/test_delivery.py"),
    ),
    Mutation(
        "refusing-machine-kept",
        "A rented machine whose GPU does not encode gets no other job",
        "gateway/providers/rental/provider.py",
        "and (rental.code is None or rental.has(attempt.remote_id))",
        "and True",
        ("tests/gateway/providers/rental/test_retirement.py",),
    ),
    # Providers: what they bill and offer
    Mutation(
        "traffic-not-compared",
        "Offers are compared with their traffic",
        "gateway/providers/rental/comparison.py",
        "return offer.nano_per_s * seconds + traffic_nano",
        "return offer.nano_per_s * seconds",
        ("tests/gateway/providers/clouds/vast/test_offers.py",),
    ),
    Mutation(
        "doubtful-machine-first",
        "Machines on which NVENC can be expected to work are rented first",
        "gateway/providers/clouds/vast/offers.py",
        "return not can_encode(fit[offer.id]), newest",
        "return False, newest",
        ("tests/gateway/providers/clouds/vast/test_offers.py",),
    ),
    Mutation(
        "traffic-not-in-budget",
        "The traffic of jobs counts against the budget of the day",
        "gateway/dispatch/attempt_writer.py",
        "    if traffic_nano:\n",
        "    if False:\n",
        ("tests/gateway/dispatch/test_attempt_writer.py",),
    ),
    Mutation(
        "pull-not-charged",
        "The first attempt on a rented machine bears the pull of the image",
        "gateway/providers/rental/provider.py",
        "pull_nano=traffic.nano(self._settings.image_bytes, 0) if first else 0",
        "pull_nano=0",
        ("tests/gateway/providers/rental/test_provider.py",),
    ),
    Mutation(
        "search-quota-ignored",
        "No search is made until midnight UTC when the quota of the day is used up",
        "gateway/providers/clouds/vast/client.py",
        "if self._day_without_search == self._today():",
        "if False:",
        ("tests/gateway/providers/clouds/vast/test_client.py",),
    ),
    Mutation(
        "retry-after-ignored",
        "Calls pause as long as Vast.ai's Retry-After says",
        "gateway/providers/clouds/vast/client.py",
        "default_s if answer.retry_after_s is None else min(answer.retry_after_s, max_s)",
        "default_s",
        ("tests/gateway/providers/clouds/vast/test_client.py",),
    ),
    Mutation(
        "unknown-gpu-kept",
        "GPUs of which it is not known whether they can encode are excluded from the endpoint",
        "gateway/providers/runpod/endpoint/catalogue.py",
        '[*gpu["excludedTypes"], *account.unknown_gpus(wanted)]',
        'gpu["excludedTypes"]',
        ("tests/gateway/providers/runpod/endpoint/test_runpod_commands.py",),
    ),
    Mutation(
        "change-not-read-back",
        "What RunPod accepted is read after a change",
        "gateway/providers/runpod/endpoint/plan.py",
        'management.change(key, plan.patch)\n    return replace(plan, present=_read(management, key, "changed"))',
        "return replace(plan, present=management.change(key, plan.patch))",
        ("tests/gateway/providers/runpod/endpoint/test_runpod_commands.py",),
    ),
)
