"""The checksums of TFRecords: CRC32C, masked."""

import google_crc32c

_CHUNK_BYTES = 1 << 18  # the library takes bytes only; copying small chunks of a mapped file stays in the cache


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum that a TFRecord file stores for `data`."""
    crc = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        crc = google_crc32c.extend(crc, bytes(data[start : start + _CHUNK_BYTES]))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF  # masking of the TFRecord format
