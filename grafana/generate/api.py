"""The API: what is asked, how it is answered, who is let in."""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'api', 'Rollcall API and access', []
DESCRIPTION = 'Requests, refusals, streams, MCP calls, access and certificates.'

ROWS = [
    row(
        'Requests',
        graph('Requests by route', 'reqps', 'The busiest routes. Normal: what your clients ask. A sudden rise on one route is one client: '
              'see by code how it is answered.',
              top('route', 'rollcall_http_requests_total{@}', 'rate'), w=12),
        graph('Answers by code', 'reqps', 'How requests are answered. Normal: 2xx. 422: a caller has a mistake; 429: send less; 503: starting, '
              'stopping, or unable to write.',
              top('code', 'rollcall_http_requests_total{@}', 'rate'), w=12),
        graph('Server errors', 'percentunit', 'The share of answers that are 5xx. Normal: 0. Over 0.1 % for long breaks the promise: see the '
              'service levels, and the log for the trace.',
              ('sum by (instance) (rate(rollcall_http_requests_total{@, code=~"5.."}[~])) / sum by (instance) (rate(rollcall_http_requests_total{@}[~]))', '{{instance}}'), w=12),
        graph('Duration by route, p99', 's', 'One request in a hundred took longer than this. Normal: milliseconds, and as long as the task for '
              'callers that wait for its end.',
              ('topk(8, histogram_quantile(0.99, sum by (instance, route, le) (rate(rollcall_http_request_duration_seconds_bucket{@}[~]))))', '{{route}} {{instance}}'), w=12),
        graph('In flight', 'short', 'Requests that are being answered, with those that wait for a task. Normal: as many as callers wait. A rise '
              'that does not end: tasks wait, see Tasks and queue.', ('rollcall_http_requests_in_flight{@}', '{{instance}}'), w=12),
        graph('Refused at the door', 'reqps', 'Requests refused before a handler saw them. Normal: none. host and origin: a web page that tries; '
              'overload: the queue is full; too_large: use artifacts.',
              top('reason', 'rollcall_http_rejected_total{@}', 'rate'), w=12),
    ),
    row(
        'Streams and MCP',
        graph('Open streams', 'short', 'Streams of events that are open. Normal: one for each that watches. Near the limit of 1,024: clients that '
              'never close theirs.', ('rollcall_sse_streams{@}', '{{instance}}')),
        graph('Events sent', 'ops', 'Events sent on streams. Normal: follows the tasks that are watched. None while streams are open and tasks run: '
              'look at the readers.', ('rate(rollcall_sse_events_total{@}[~])', '{{instance}}')),
        graph('Streams closed by the server', 'short', 'Streams that the server closed. Normal: none. slow: a reader fell behind; limit: too many '
              'are open.', top('reason', 'rollcall_sse_evictions_total{@}', 'increase')),
        graph('MCP calls', 'reqps', 'Calls over MCP, by method and outcome. Normal: tools/call with ok. Errors: look at the client\'s arguments.',
              ('topk(8, sum by (instance, method, outcome) (rate(rollcall_mcp_requests_total{@}[~])))', '{{method}} {{outcome}}'), w=12),
        graph('MCP sessions', 'short', 'Sessions that are open. Normal: one for each agent. A rise that does not end: agents that never close theirs.',
              ('rollcall_mcp_sessions{@}', '{{instance}}'), w=12),
    ),
    row(
        'Access',
        graph('Who was let in', 'reqps', 'Tries to get in, by how they ended. Normal: ok. expired and revoked: a forgotten client; unknown: a guess.',
              ('topk(8, sum by (instance, plane, outcome) (rate(rollcall_auth_attempts_total{@}[~])))', '{{plane}} {{outcome}}'), w=12),
        graph('Failed tries', 'reqps', 'Tries that failed, by plane. Normal: 0. At the line for five minutes it is a ticket: block who guesses, or '
              'give the client its new key.',
              by('plane', 'rollcall_auth_attempts_total{@, outcome!="ok"}', 'rate'),
              limits=[limit('AuthFailures')], w=12),
        table('Certificates', 'When certificates end. Normal: in weeks. Under seven days is a ticket: put the new pair in place, it is taken up '
              'without a restart.', 'cert',
              [('ends', 'max by (instance, cert) (rollcall_tls_certificate_expiry_timestamp_seconds{@}) * 1000', 'dateTimeFromNow', ())], w=12),
        graph('Certificate reloads', 'short', 'What became of new certificates. Normal: applied. invalid: the pair does not fit or is cut short, and '
              'the old one is kept.',
              by('outcome', 'rollcall_tls_reloads_total{@}', 'increase'), w=12),
        graph('Audited actions', 'short', 'What people and keys changed. Normal: what you know of. A change that nobody knows of: read the audit log.',
              top('action', 'rollcall_audit_events_total{@}', 'increase'), w=12),
        graph('Audit log failures', 'short', 'Lines that could not be written. Normal: none. Any: actions of admins are refused until the disk takes '
              'them again.', ('increase(rollcall_audit_write_errors_total{@}[~])', '{{instance}}'), w=12),
    ),
]
