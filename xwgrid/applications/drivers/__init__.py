"""Programs that run inside a renderer, or beside it: the standard library and what the renderer brings, nothing else.

Each is started as a script, by the Python of a runtime. No other module imports them.
"""
