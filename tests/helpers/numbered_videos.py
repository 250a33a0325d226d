"""Writes small video files. Each frame shows its number, as in tests/cases."""

import struct
from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 128, 64
# A format that the name's suffix does not select.
_FORMATS = {"wmv": "asf", "m2ts": "mpegts"}
_PIXEL_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p", "prores": "yuv422p10le"}


def numbered_frame(number):
    """uint8 [64, 128, 3]: 8 black or white blocks in the upper half are the number; a grey bar moves in the lower."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        pixels[: HEIGHT // 2, bit * 16 : bit * 16 + 16] = 255 * (number >> (7 - bit) & 1)
    pixels[HEIGHT // 2 :, number * 5 % WIDTH :][:, :16] = 128
    return pixels


def frame_number(frame):
    """The number of an upright frame [H, W, 3]."""
    height, width = frame.shape[:2]
    blocks = frame[height // 4, [(2 * bit + 1) * width // 16 for bit in range(8)]].mean(axis=-1)
    return int("".join("1" if level > 128 else "0" for level in blocks), 2)


def frame_numbers(frames):
    return [frame_number(frame) for frame in frames]


def encode(stream, numbers, start=0):
    """Packets of the frames `numbers`. The first one is shown at time `start`, in frames."""
    packets = []
    for index, number in enumerate(numbers):
        frame = av.VideoFrame.from_ndarray(numbered_frame(number), "rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = start + index, 1 / Fraction(stream.codec_context.framerate)
        packets += stream.encode(frame)
    return packets + stream.encode()


def add_stream(container, codec, rate=25, options=None, pixel_aspect=None):
    """Adds a video stream with a key frame at least every 12 frames."""
    fast = {"deadline": "realtime"} if codec == "libvpx" else {}
    stream = container.add_stream(codec, rate=Fraction(rate), options=fast | (options or {}))
    stream.codec_context.thread_count = 1
    stream.width, stream.height, stream.gop_size, stream.bit_rate = WIDTH, HEIGHT, 12, 1_000_000
    stream.pix_fmt = _PIXEL_FORMATS.get(codec, "yuv420p")
    if pixel_aspect:
        stream.codec_context.sample_aspect_ratio = pixel_aspect
    return stream


def open_output(path, options=None):
    return av.open(str(path), "w", format=_FORMATS.get(str(path).rpartition(".")[2]), options=options or {})


def write_numbered(path, codec="libx264", options=None, num_frames=60, start=0, mux_options=None, **stream_fields):
    """Writes a video with frames 0, 1, ... The first one is shown at time `start`, in frames."""
    with open_output(path, mux_options) as container:
        stream = add_stream(container, codec, options=options, **stream_fields)
        for packet in encode(stream, range(num_frames), start):
            container.mux(packet)
    return str(path)


def write_with_sound(path, codec, delay, sound_codec="aac"):
    """Writes 60 frames at 25 frames per second that begin `delay` seconds after 3 s of silence."""
    with open_output(path) as container:
        stream = add_stream(container, codec)
        sound = container.add_stream(sound_codec, rate=48000, layout="mono")
        packets = encode(stream, range(60))
        for packet in packets:
            shift = round(delay / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        for start in range(0, 3 * 48000, 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            packets += sound.encode(frame)
        packets += sound.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return str(path)


def copy_packets(source, path, skip=0, change_packet=lambda index, packet: None):
    """Copies the packets of a video without encoding, except for the first `skip`."""
    with av.open(str(source)) as input_file, open_output(path) as output_file:
        stream = output_file.add_stream_from_template(input_file.streams.video[0])
        for index, packet in enumerate(packet for packet in input_file.demux(video=0) if packet.size):
            if index >= skip:
                change_packet(index, packet)
                packet.stream = stream
                output_file.mux(packet)
    return str(path)


def set_display_matrix(path, a, b, c, d):
    """Sets the display matrix of an upright mp4 file: a pixel moves from (x, y) to (a x + c y, b x + d y)."""
    one = 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(data.index(upright, data.index(b"tkhd")))
        file.write(struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30))
    return str(path)
