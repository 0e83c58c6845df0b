"""PDFs written object by object."""

from collections.abc import Mapping, Sequence

FONT = "/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
ON, OFF, MEMBERS = 10, 11, 12  # numbers of objects


def a_page(
    content: str,
    *,
    annotations: Sequence[str] = (),
    catalog: str = "",
    resources: str = "",
    others: Mapping[int, str | bytes] | None = None,
) -> bytes:
    """Write a PDF of one page; annotations are objects from 20 on."""
    known = resources if "/Font" in resources else FONT + resources
    notes = {20 + number: text for number, text in enumerate(annotations)}
    listed = " ".join(f"{number} 0 R" for number in notes)
    objects: dict[int, str | bytes] = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 300] /Contents 4 0 R "
        f"/Resources << {known} >> /Annots [{listed}] >>",
        4: a_stream(content),
        **(others or {}),
        **notes,
    }
    body, places = b"%PDF-1.7\n", {}
    for number, value in sorted(objects.items()):
        places[number] = len(body)
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        body += b"%d 0 obj\n%s\nendobj\n" % (number, raw)
    start = len(body)
    table = "xref\n0 1\n0000000000 65535 f \n"
    for number, at in places.items():
        table += f"{number} 1\n{at:010d} 00000 n \n"
    trailer = f"trailer\n<< /Root 1 0 R /Size 99 >>\nstartxref\n{start}\n%%EOF\n"
    return body + (table + trailer).encode()


def a_stream(content: str, dictionary: str = "") -> str:
    return f"<< {dictionary} /Length {len(content)} >>\nstream\n{content}\nendstream"


def words(text: str, *, y: int) -> str:
    return f"BT /F1 20 Tf 20 {y} Td ({text}) Tj ET\n"


LAYERS = {
    ON: "<< /Type /OCG /Name (shown) >>",
    OFF: "<< /Type /OCG /Name (hidden) >>",
    MEMBERS: f"<< /Type /OCMD /OCGs [{OFF} 0 R] /P /AllOn >>",
}
CATALOG = f"/OCProperties << /OCGs [{ON} 0 R {OFF} 0 R] /D << /ON [{ON} 0 R] /OFF [{OFF} 0 R] >> >>"
PROPERTIES = f"/Properties << /On {ON} 0 R /Off {OFF} 0 R /Members {MEMBERS} 0 R >>"


def a_form(text: str, layer: int) -> str:
    kind = f"/Type /XObject /Subtype /Form /BBox [0 0 400 300] /OC {layer} 0 R"
    return a_stream(words(text, y=60), f"{kind} /Resources << {FONT} >>")


def drawn(text: str, flags: int, kind: str = "FreeText") -> tuple[str, dict[int, str]]:
    """Make an annotation with its own drawing."""
    look = a_stream(
        f"BT /F1 18 Tf 2 10 Td ({text}) Tj ET",
        f"/Type /XObject /Subtype /Form /BBox [0 0 300 40] /Resources << {FONT} >>",
    )
    note = (
        f"<< /Type /Annot /Subtype /{kind} /Rect [20 100 320 140] /F {flags} "
        f"/Contents ({text}) /DA (/F1 18 Tf 0 g) /AP << /N 40 0 R >> >>"
    )
    return note, {40: look}


def a_page_of_layers() -> bytes:
    """Write a page of text on and off layers, in forms too, and an annotation that is drawn."""
    note, look = drawn("reviewed", 4)
    forms = {30: a_form("hidden form", OFF), 31: a_form("shown form", ON)}
    return a_page(
        f"/OC /On BDC {words('shown', y=200)} EMC /OC /Off BDC {words('off', y=150)} EMC /X0 Do",
        annotations=[note],
        catalog=CATALOG,
        resources=f"{PROPERTIES} /XObject << /X0 30 0 R /X1 31 0 R >>",
        others={**LAYERS, **forms, **look},
    )
