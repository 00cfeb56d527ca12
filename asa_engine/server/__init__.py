"""Scores over HTTP and WebSocket, for many learners at once. Needs the extra `server`.

settings.py    what can be set, and its bounds
refusal.py     errors as HTTP status and WebSocket close code
pool.py        worker threads, an engine each; streams take turns
readiness.py   a made-up voice that every engine scores first
jobs.py        one recording: a live stream or an upload, done turn by turn
session_job.py a session of responses, likewise
messages.py    what they say
metrics.py     what Prometheus reads
logs.py        lines of JSON
traces.py      spans for OpenTelemetry, where an endpoint is given
access.py      hosts and origins
keys.py        API keys, and what each may
uploads.py     bodies of uploads: files as they are, forms
envelope.py    what every request passes through
app.py         the HTTP routes
openapi.py     their description
store.py       what is kept of streams that have an id
resuming.py    how they go on
live.py        the WebSocket protocol
watch.py       time that clients are judged by
pacing.py      connections, and how much of the event loop each may take
serving.py     listen, drain, stop
kiosk.py       the kiosk page, without the extra
"""
