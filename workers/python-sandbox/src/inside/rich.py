"""What a value looks like: as text always, and in the richer forms that it offers by itself."""

TEXTS = {
    "html": ("_repr_html_", "text/html"),
    "svg": ("_repr_svg_", "image/svg+xml"),
    "markdown": ("_repr_markdown_", "text/markdown"),
    "latex": ("_repr_latex_", "text/x-latex"),
}
IMAGES = {"png": ("_repr_png_", "image/png"), "jpeg": ("_repr_jpeg_", "image/jpeg")}

# Longer texts become files.
INLINE = 8 * 1024


def represent(value, send_file):
    result = {"text": runner.shortened(repr(value))}
    if isinstance(value, type):
        return result
    for kind, (method, media_type) in TEXTS.items():
        text = call(value, method)
        if isinstance(text, str):
            result[kind] = text_form(kind, media_type, text, send_file)
    for kind, (method, media_type) in IMAGES.items():
        image = call(value, method)
        if isinstance(image, (bytes, bytearray)):
            result[kind] = send_file(f"result.{kind}", media_type, bytes(image))
    data = call(value, "_repr_json_")
    if data is not None:
        import json

        text = json.dumps(data)
        small = len(text) <= INLINE
        result["json"] = data if small else send_file("result.json", "application/json", text.encode())
    if is_figure(value) and "png" not in result:
        result["png"] = figure(value, send_file)
    return result


def text_form(kind, media_type, text, send_file):
    if len(text) <= INLINE:
        return text.encode("utf-8", "replace").decode("utf-8")
    return send_file(f"result.{kind}", media_type, text.encode("utf-8", "replace"))


def call(value, method):
    """What a method returns; a representation that fails is no failure of the task."""
    try:
        found = getattr(value, method, None)
        form = found() if callable(found) else None
    except Exception:
        return None
    # Some return the data and something about it.
    return form[0] if isinstance(form, tuple) and form else form


def is_figure(value):
    import sys

    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def figure(value, send_file):
    import io
    import sys

    image = io.BytesIO()
    value.savefig(image, format="png", bbox_inches="tight")
    plot = sys.modules.get("matplotlib.pyplot")
    if plot is not None:
        plot.close(value)
    return send_file("figure.png", "image/png", image.getvalue())


def show_figures(results, send_file):
    """The figures that were drawn and not shown, as in a notebook."""
    import sys

    plot = sys.modules["matplotlib.pyplot"]
    for number in plot.get_fignums():
        drawn = plot.figure(number)
        results.append({"text": repr(drawn), "png": figure(drawn, send_file)})
