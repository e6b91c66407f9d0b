"""The one page for people: what this server is, and how to begin."""

from __future__ import annotations

LANDING_PAGE = b"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>xwgrid</title>
<h1>xwgrid</h1>
<p>This is a server of a render and compute grid: volunteers' idle desktops do the work that requesters hand in.</p>
<ul>
<li>To hand in work: <code>xwgrid login</code>, then <code>xwgrid submit scene.blend</code>.</li>
<li>To lend a machine: <code>xwgrid-volunteer enrol</code>. Both need a token from this server's operator.</li>
<li>For programs: <a href="/v1/openapi.json">the OpenAPI document</a>.</li>
</ul>
</html>
"""
