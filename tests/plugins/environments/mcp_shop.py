"""An MCP server made with the package's own class. It adds its process id to the file that it is given."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

from mcp.server.mcpserver import Image, MCPServer
from mcp.types import AudioContent, BlobResourceContents, EmbeddedResource, ResourceLink, TextResourceContents
from pydantic import BaseModel

server = MCPServer("shop", version=os.environ.get("SHOP_VERSION", "1.2"), log_level="ERROR")
sold: list[str] = []
both = asyncio.Barrier(2)


class Item(BaseModel):
    name: str
    size: Literal["small", "large"] = "small"


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="sell.items")
def sell(items: list[Item]) -> str:
    """Sell items."""
    sold.extend(item.name for item in items)
    return f"sold {len(sold)}"


@server.tool()
def stock() -> dict[str, int]:
    """Say what there is."""
    return {"rope": 2}


@server.tool()
def show():
    """Show everything."""
    return [
        "here:",
        Image(data=b"x" * 3000, format="png"),
        AudioContent(type="audio", data="eHg=", mime_type="audio/wav"),
        ResourceLink(type="resource_link", name="list", uri="file:///list.txt"),
        EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///a.txt", text="a text")),
        EmbeddedResource(type="resource", resource=BlobResourceContents(uri="file:///b", blob="eHh4")),
    ]


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("no luck")


@server.tool()
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"


@server.tool()
async def meet() -> str:
    """Wait for another call of this tool."""
    await both.wait()
    return "met"


@server.tool()
def whose(variable: str) -> str:
    """Say the process and a variable of its environment."""
    return f"{os.getpid()} {os.environ.get(variable)}"


@server.tool()
def much() -> str:
    """Say much."""
    return "x" * 1_000_000


@server.tool()
def die() -> str:
    """Die."""
    sys.stderr.write("I die\n")
    sys.stderr.flush()
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if len(sys.argv) > 2:
        server.run("streamable-http", port=int(sys.argv[2]))
    server.run()
