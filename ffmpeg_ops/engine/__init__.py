"""Code shared by the operations. Nothing here depends on a particular operation.

Modules: process (starts programs), orphans (what they leave behind), confined and zygote (run Python functions that
read untrusted files in processes), sandbox (what all these processes may not do), ffmpeg (its limits, progress and
error texts), inspect (ffprobe), encoders (finds a working encoder), encoding (the param `encoding`), params (fields
that params share), bitrate (how a video fits into a number of bytes), pixels (filters that make 8-bit 4:2:0 SDR of any
video), output (the finished file) and mp4 (its header). Packages: stills, subtitles and mixing.
"""
