"""The operations: what Reelay does to media. This package knows files only: no HTTP, no job, no provider."""
