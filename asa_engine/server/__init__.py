"""Scores over HTTP and WebSocket, for many learners at once. Needs the extra `server`.

settings.py    what can be set, and its bounds
refusal.py     errors as HTTP status and WebSocket close code
pool.py        worker threads, an engine each; streams take turns
jobs.py        one recording: a live stream or an upload, done turn by turn
metrics.py     what Prometheus reads
app.py         the HTTP routes
live.py        the WebSocket protocol
serving.py     listen, drain, stop
"""
