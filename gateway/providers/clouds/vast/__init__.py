"""The cloud Vast.ai: machines of strangers."""
