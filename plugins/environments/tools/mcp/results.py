"""The results of MCP tools become text."""

from __future__ import annotations

import json

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)


def text_of(result: CallToolResult) -> str:
    """Return a result as text: its texts line by line, with a note in the place of what is no text.

    The structured content is shown, as JSON, where there is nothing else; servers also give it as text.
    """
    if result.content or result.structured_content is None:
        return "\n".join(_shown(block) for block in result.content) or "(nothing)"
    return json.dumps(result.structured_content, ensure_ascii=False)


def _shown(block: TextContent | ImageContent | AudioContent | ResourceLink | EmbeddedResource) -> str:
    if isinstance(block, TextContent):
        return block.text
    if isinstance(block, ImageContent | AudioContent):
        return f"[{block.type}, {block.mime_type}, {_size(block.data)}]"
    if isinstance(block, ResourceLink):
        return f"[resource {block.name}: {block.uri}]"
    resource = block.resource
    if isinstance(resource, BlobResourceContents):
        return f"[resource {resource.uri}, {resource.mime_type or 'binary'}, {_size(resource.blob)}]"
    return resource.text


def _size(base64: str) -> str:
    """Return the size of what a base64 text stands for."""
    size = len(base64.rstrip("=")) * 3 // 4
    return f"{size} bytes" if size < 1000 else f"{round(size / 1000)} KB"
