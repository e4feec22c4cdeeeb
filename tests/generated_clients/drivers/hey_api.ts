// Uses the client of @hey-api/openapi-ts.
import assert from "node:assert/strict";
import { openAsBlob } from "node:fs";
import { createClient } from "./client/client";
import { cancelJob, getJob, img2Vid, listJobs, uploadFile } from "./client";
import type { Job } from "./client";

const { GATEWAY_URL, API_KEY, PHOTO } = process.env as Record<string, string>;
const client = createClient({ baseUrl: GATEWAY_URL!, auth: API_KEY! });

async function ended(job: Job): Promise<Job> {
    while (job.status === "queued" || job.status === "running") {
        const path = { job_id: job.jobId };
        job = (await getJob({ client, path, query: { wait: 30, strict: true }, throwOnError: true })).data;
    }
    return job;
}

async function finish(url: string): Promise<void> {
    const body = { url_image: url, duration: 0.5, reference: "hey-api" };
    const checked = await img2Vid({ client, body, query: { validate: true }, throwOnError: true });
    assert("params" in checked.data, JSON.stringify(checked.data));
    const { data } = await img2Vid({ client, body, throwOnError: true });
    assert("jobId" in data, JSON.stringify(data));
    const job = await ended(data);
    assert.equal(job.status, "completed", JSON.stringify(job));
    const video = await fetch(job.video_url!);
    assert.equal((await video.arrayBuffer()).byteLength, job.outputs!.video!.size_bytes);
    const listed = await listJobs({ client, query: { reference: "hey-api" } });
    assert.deepEqual(listed.data?.jobs.map((found) => found.jobId), [job.jobId]);
}

async function cancel(url: string): Promise<void> {
    const { data } = await img2Vid({ client, body: { url_image: url, duration: 60 }, throwOnError: true });
    assert("jobId" in data);
    assert.equal((await cancelJob({ client, path: { job_id: data.jobId } })).data?.status, "cancelled");
}

async function errors(url: string): Promise<void> {
    const wrong = await img2Vid({ client, body: { url_image: url, duration: -1 } });
    assert.equal(wrong.error?.code, "validation_failed");
    assert(wrong.error.errors?.duration);
    const failed = await img2Vid({ client, body: { url_image: `${url}x` }, query: { wait: 60, strict: true } });
    assert.equal(failed.response?.status, 422);
    assert.equal(failed.error?.job?.error?.code, "asset_not_found");
    assert.equal((await getJob({ client, path: { job_id: "job_none" } })).error?.code, "not_found");
    assert.equal((await listJobs({ client, auth: "wrong" })).error?.code, "unauthorized");
}

async function main(): Promise<void> {
    const uploaded = await uploadFile({ client, body: { file: await openAsBlob(PHOTO!) }, throwOnError: true });
    await finish(uploaded.data.url);
    await cancel(uploaded.data.url);
    await errors(uploaded.data.url);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
