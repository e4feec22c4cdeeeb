// Uses openapi-fetch with the types of openapi-typescript.
import assert from "node:assert/strict";
import { openAsBlob } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./client/schema";

type Job = components["schemas"]["Job"];

const { GATEWAY_URL, API_KEY, PHOTO } = process.env as Record<string, string>;
const api = createClient<paths>({ baseUrl: GATEWAY_URL, headers: { "X-API-Key": API_KEY! } });

async function upload(): Promise<string> {
    const { data, error } = await api.POST("/files", {
        body: (await openAsBlob(PHOTO!)) as unknown as string,
        headers: { "Content-Type": "application/octet-stream" },
        bodySerializer: (body) => body,
    });
    assert(data, JSON.stringify(error));
    return data.url;
}

async function ended(job: Job): Promise<Job> {
    while (job.status === "queued" || job.status === "running") {
        const { data, error } = await api.GET("/jobs/{job_id}", {
            params: { path: { job_id: job.jobId }, query: { wait: 30, strict: true } },
        });
        assert(data, JSON.stringify(error));
        job = data;
    }
    return job;
}

async function finish(url: string): Promise<void> {
    const body = { url_image: url, duration: 0.5, reference: "fetch" } as const;
    const checked = await api.POST("/video/img2vid", { body, params: { query: { validate: true } } });
    assert(checked.data && "params" in checked.data, JSON.stringify(checked));
    const { data, error } = await api.POST("/video/img2vid", { body });
    assert(data && "jobId" in data, JSON.stringify(error));
    const job = await ended(data);
    assert.equal(job.status, "completed", JSON.stringify(job));
    const video = await fetch(job.video_url!);
    assert.equal((await video.arrayBuffer()).byteLength, job.outputs!.video!.size_bytes);
    const listed = await api.GET("/jobs", { params: { query: { reference: "fetch" } } });
    assert.deepEqual(listed.data?.jobs.map((found) => found.jobId), [job.jobId]);
}

async function cancel(url: string): Promise<void> {
    const { data } = await api.POST("/video/img2vid", { body: { url_image: url, duration: 60 } });
    assert(data && "jobId" in data);
    const path = { job_id: data.jobId };
    const cancelled = await api.DELETE("/jobs/{job_id}", { params: { path } });
    assert.equal(cancelled.data?.status, "cancelled");
}

async function errors(url: string): Promise<void> {
    const wrong = await api.POST("/video/img2vid", { body: { url_image: url, duration: -1 } });
    assert.equal(wrong.error?.code, "validation_failed");
    assert(wrong.error.errors?.duration);
    const failed = await api.POST("/video/img2vid", {
        body: { url_image: `${url}x` },
        params: { query: { wait: 60, strict: true } },
    });
    assert.equal(failed.response.status, 422);
    assert.equal(failed.error?.code, "asset_not_found");
    assert.equal(failed.error.job?.error?.code, "asset_not_found");
    const missing = await api.GET("/jobs/{job_id}", { params: { path: { job_id: "job_none" } } });
    assert.equal(missing.error?.code, "not_found");
    const refused = await api.GET("/jobs", { headers: { "X-API-Key": "wrong" } });
    assert.equal(refused.error?.code, "unauthorized");
}

async function main(): Promise<void> {
    const url = await upload();
    await finish(url);
    await cancel(url);
    await errors(url);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
