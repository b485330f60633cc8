"""Scripts and manifests from templates/."""

import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # nothing here is a page; every value goes through words, sh or json
)
TEMPLATES.filters["sh"] = lambda value: shlex.quote(str(value))
TEMPLATES.filters["words"] = shlex.join
# A JSON string is a YAML string, whatever is in it.
TEMPLATES.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)


def render(template: str, **values: Any) -> str:
    """The text of one template."""
    return TEMPLATES.get_template(template).render(**values)
