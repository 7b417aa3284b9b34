"""Zip archives, and a server on this machine that hands them out."""

import http.server
import io
import zipfile


def zipped(files):
    """A zip archive of name -> content as bytes; folders are listed as in COCO's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        content.writestr("train/", "")
        for name, data in files.items():
            content.writestr(name, data)
    return buffer.getvalue()


IMAGES = zipped({f"train/{i} ü.jpg": bytes([i]) * 9000 for i in range(5)})


LABELS = zipped(
    {
        "notes/train.json": b"{}",
        "notes/other.json": b"not wanted",
        "notes/panoptic.zip": zipped({"panoptic/1.png": b"png"}),
    }
)


FILES = {"/images.zip": IMAGES, "/labels.zip": LABELS}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; those in `cut` stop in the middle, those in `wait` hang there."""

    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path in self.server.cut:
            data = data[: len(data) // 2]
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if self.path in self.server.wait:
            self.server.released.wait(60)
            return
        self.wfile.write(data[len(data) // 2 :])

    def log_message(self, *_):
        pass


WHOLE = {
    "notes/train.json": b"{}",
    "notes/panoptic/1.png": b"png",
    **{f"train/{i} ü.jpg": bytes([i]) * 9000 for i in range(5)},
}


def contents(folder):
    """Name -> content of everything below a folder that is not hidden."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not str(path.relative_to(folder)).startswith(".")
    }
