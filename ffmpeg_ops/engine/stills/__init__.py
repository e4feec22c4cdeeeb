"""A still image becomes a moving shot: the image is prepared, a camera moves over it, and raw frames come out."""
