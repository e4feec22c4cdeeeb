"""A clip, which is any video, becomes frames of one size at an exact rate."""
