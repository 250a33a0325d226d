"""Suffixes of the video files that FFmpeg reads."""

# Most common container first: of two files with the same stem, the annotations of a data set mean the first.
# Omitted, because most of these files are not videos: .ogg, .m4a (audio), .dat (data), .webp, .avif, .png (images),
# .lrv and .thm (small copies that cameras write next to a video). A list can name these files.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".f4v", ".ismv", ".mj2", ".insv"),  # MPEG-4, QuickTime
    *(".mkv", ".mk3d", ".webm", ".avi", ".divx", ".xvid", ".amv"),  # Matroska, AVI
    *(".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".m2p", ".vob", ".vro", ".evo", ".mod", ".tod"),  # MPEG-1, -2
    *(".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp"),  # MPEG transport stream
    *(".wmv", ".asf", ".wm", ".dvr-ms", ".wtv"),  # Windows Media
    *(".flv", ".swf", ".ogv", ".ogm", ".rm", ".rmvb"),  # Flash, Ogg, RealMedia
    *(".mxf", ".gxf", ".dv", ".dif", ".nut", ".cine", ".mlv", ".dav"),  # cameras and editing
    *(".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266", ".vvc"),  # raw streams
    *(".ivf", ".obu", ".vc1", ".mjpeg", ".mjpg", ".y4m"),
    *(".fli", ".flc", ".nsv", ".nuv", ".smk", ".bik", ".roq", ".viv"),  # old formats
    *(".apng", ".gif"),  # animations
)


def has_video_suffix(name: str) -> bool:
    """Whether a file name has one of `VIDEO_SUFFIXES`, in any case."""
    return name.lower().endswith(VIDEO_SUFFIXES)
