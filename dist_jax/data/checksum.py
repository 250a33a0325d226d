"""The checksums of TFRecords: CRC32C, masked."""

import crc32c


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum that a TFRecord file stores for `data`. Other threads run meanwhile if the data are large."""
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF  # masking of the TFRecord format
