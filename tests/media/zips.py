"""ZIPs as no writer makes them."""

import io
import struct
import zipfile


def a_zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def a_zip_of_two_directories(seen: dict[str, bytes], hidden: dict[str, bytes]) -> bytes:
    """Join two ZIPs: the plain end record names the first, the ZIP64 record the second."""
    first, second = a_zip(hidden), a_zip(seen)
    end = struct.Struct("<4s4H2LH")
    _, _, _, count, _, size, at, _ = end.unpack(first[-22:])
    _, _, _, count64, _, size64, at64, _ = end.unpack(second[-22:])
    joined = bytearray(first[:-22])
    shift = len(joined)
    body = bytearray(second[:-22])
    for _ in range(count64):
        place = body.index(b"PK\x01\x02", at64)
        (offset,) = struct.unpack_from("<L", body, place + 42)
        struct.pack_into("<L", body, place + 42, offset + shift)
        at64 = place + 46
    joined += body
    record_at = len(joined)
    start64 = shift + struct.unpack("<L", second[-6:-2])[0]
    joined += struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count64, count64, size64, start64
    )
    joined += struct.pack("<4sLQL", b"PK\x06\x07", 0, record_at, 1)
    return bytes(joined) + end.pack(b"PK\x05\x06", 0, 0, count, count, size, at, 0)


def a_bomb_of_a_type(size_bytes: int, packing: int) -> bytes:
    """Pack a member "mimetype" that its directory calls small, and that is not."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as archive:
        archive.writestr("ppt/presentation.xml", "<a/>")
        with archive.open("mimetype", "w", force_zip64=True) as declared:
            for _ in range(size_bytes // 1024**2):
                declared.write(bytes(1024**2))
    content = bytearray(target.getvalue())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 24 : second + 28] = (200).to_bytes(4, "little")
    return bytes(content)


def a_directory_of(num_entries: int) -> bytes:
    """Make a ZIP that is all directory."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"a"
    size = len(entry) * num_entries
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, size, 30, 0)
    return b"PK\x03\x04" + bytes(26) + entry * num_entries + end
