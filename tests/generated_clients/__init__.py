"""Clients that others would generate from our OpenAPI document."""
