"""The cloud Vast.ai, whose machines belong to third parties."""
