// Uses the client of openapi-generator's typescript-fetch.
import assert from "node:assert/strict";
import { openAsBlob } from "node:fs";
import { Configuration, FilesApi, JobsApi, ProblemFromJSON, ResponseError, VideoApi } from "./client";
import type { Job, Problem } from "./client";

const { GATEWAY_URL, API_KEY, PHOTO } = process.env as Record<string, string>;

const configuration = (apiKey: string) => new Configuration({ basePath: GATEWAY_URL!, apiKey });
const [files, jobs, video] = [FilesApi, JobsApi, VideoApi].map((api) => new api(configuration(API_KEY!))) as [
    FilesApi,
    JobsApi,
    VideoApi,
];

async function problem(call: Promise<unknown>, status: number, code: string): Promise<Problem> {
    const error: unknown = await call.catch((error) => error);
    assert(error instanceof ResponseError, String(error));
    assert.equal(error.response.status, status);
    const shown = ProblemFromJSON(await error.response.json());
    assert.equal(shown.code, code);
    return shown;
}

async function finish(urlImage: string): Promise<void> {
    const img2VidParams = { urlImage, duration: 0.5, reference: "typescript-fetch" };
    const checked = await video.img2vid({ img2VidParams, validate: true });
    assert("params" in checked, JSON.stringify(checked));
    const submitted = await video.img2vid({ img2VidParams });
    assert("jobId" in submitted, JSON.stringify(submitted));
    let job: Job = submitted;
    while (job.status === "queued" || job.status === "running") {
        job = await jobs.getJob({ jobId: job.jobId, wait: 30, strict: true });
    }
    assert.equal(job.status, "completed", JSON.stringify(job));
    assert(job.createdAt < job.expiresAt!);
    const download = await fetch(job.videoUrl!);
    assert.equal((await download.arrayBuffer()).byteLength, job.outputs!.video!.sizeBytes);
    const listed = await jobs.listJobs({ reference: "typescript-fetch" });
    assert.deepEqual(listed.jobs.map((found) => found.jobId), [job.jobId]);
}

async function cancel(urlImage: string): Promise<void> {
    const job = await video.img2vid({ img2VidParams: { urlImage, duration: 60 } });
    assert("jobId" in job);
    assert.equal((await jobs.cancelJob({ jobId: job.jobId })).status, "cancelled");
}

async function errors(urlImage: string): Promise<void> {
    const wrong = video.img2vid({ img2VidParams: { urlImage, duration: -1 } });
    assert((await problem(wrong, 422, "validation_failed")).errors?.duration);
    const failed = video.img2vid({ img2VidParams: { urlImage: `${urlImage}x` }, wait: 60, strict: true });
    assert.equal((await problem(failed, 422, "asset_not_found")).job?.error?.code, "asset_not_found");
    await problem(jobs.getJob({ jobId: "job_none" }), 404, "not_found");
    await problem(new JobsApi(configuration("wrong")).listJobs(), 401, "unauthorized");
}

async function main(): Promise<void> {
    const { url } = await files.uploadFile({ file: await openAsBlob(PHOTO!) });
    await finish(url);
    await cancel(url);
    await errors(url);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
