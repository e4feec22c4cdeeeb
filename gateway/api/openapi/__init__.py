"""The OpenAPI documents: what the routes do not say of themselves."""
