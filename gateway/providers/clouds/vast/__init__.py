"""Vast.ai: machines of strangers, rented while there is work and given back after it."""

PROVIDER = "vast"
