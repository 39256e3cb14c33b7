"""An MCP server of standard Python alone, for what the package's server would not do. It starts in no time.

Its argument is a file with JSON: ``tools``, names or whole descriptions; ``junk``, lines that it prints first.
"""

import json
import os
import sys
import time
from pathlib import Path


def answer(method, params, says):
    if method == "initialize":
        server = {"name": "by hand", "version": says.get("version", "1")}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        # one tool a page
        number, tools = int(params.get("cursor", 0)), says["tools"]
        more = {"nextCursor": str(number + 1)} if number + 1 < len(tools) else {}
        return {"tools": [listed(tool) for tool in tools[number : number + 1]], **more}
    if method != "tools/call":
        return None
    if params["name"] == "die":
        os._exit(1)
    if params["name"] == "hang":
        time.sleep(1000)
    return {"content": [{"type": "text", "text": f"{os.getpid()}"}], **says.get("result", {})}


def listed(tool):
    return tool if isinstance(tool, dict) else {"name": tool, "inputSchema": {"type": "object", "properties": {}}}


def main():
    says = json.loads(Path(sys.argv[1]).read_text())
    for line in says.get("junk", ()):
        print(line, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        reply = answer(message["method"], message.get("params") or {}, says)
        outcome = {"error": {"code": -32601, "message": "unknown method"}} if reply is None else {"result": reply}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)


main()
