"""The server's inside: its loops, store, configuration, protocol and process, and the monitoring itself."""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'internals', 'Rollcall internals', []
DESCRIPTION = 'For when the server itself is the question.'

RESTS = 'sum by (instance, {0}) (rate({1}[~]))'

ROWS = [
    row(
        'Runtime',
        graph('Event loop lag', 's', 'How much longer than asked a sleep of 100 ms took. Normal: a few milliseconds. At the line it is a ticket: send '
              'less, or give the machine more.', *quantiles('rollcall_runtime_lag_seconds', '@'), limits=[limit('RuntimeLag')]),
        graph('Busy', 'percentunit', 'The share of time that the runtime\'s threads work. Normal: below 0.7. Near 1, lag begins.',
              ('rate(rollcall_runtime_busy_seconds_total{@}[~]) / rollcall_runtime_workers{@}', '{{instance}}')),
        graph('Async tasks', 'short', 'Async tasks that are alive, and those that wait for a thread. Normal: a few for each connection; none waiting. '
              'A rise that does not end is a leak.',
              ('rollcall_runtime_alive_tasks{@}', 'alive {{instance}}'), ('rollcall_runtime_queue_depth{@}', 'waiting {{instance}}')),
        graph('Loops: since their last pass', 's', 'How long ago each loop passed. Normal: at most a minute. At the line it pages: the loop hangs.',
              ('time() - rollcall_loop_last_tick_timestamp_seconds{@}', '{{loop}} {{instance}}'), limits=[limit('LoopStuck')], w=12),
        graph('Loops: lateness, p99', 's', 'How much later than planned passes begin. Normal: milliseconds. More: the event loop is full.',
              ('histogram_quantile(0.99, sum by (instance, loop, le) (rate(rollcall_loop_lateness_seconds_bucket{@}[~])))', '{{loop}} {{instance}}'), w=12),
        graph('Panics', 'short', 'Bugs that were met. Normal: none. Any is a ticket: report the log lines around it.',
              ('increase(rollcall_panics_total{@}[~])', '{{instance}}')),
        graph('Lines logged', 'ops', 'By level. Normal: info. A rise of warn means that Rollcall copes with something; error means that somebody '
              'must act.', by('level', 'rollcall_log_events_total{@}', 'rate')),
        graph('Spans dropped', 'ops', 'Spans that could not be sent. Normal: none. The collector is away or too slow; tasks are not held up by it.',
              top('reason', 'rollcall_trace_spans_dropped_total{@}', 'rate')),
    ),
    row(
        'Store',
        graph('Commits', 's', 'How long a commit takes, with its sync. Normal: what the disk needs. At the line it is a ticket: something else writes '
              'there, or the disk is slow.', *quantiles('rollcall_store_commit_seconds', '@'), limits=[limit('StoreSlow')]),
        graph('Calls by kind, p99', 's', 'How long the store\'s steps take. Normal: reads in milliseconds. A slow scan is a list that somebody pages '
              'through.', ('topk(8, histogram_quantile(0.99, sum by (instance, op, le) (rate(rollcall_store_operation_seconds_bucket{@}[~]))))', '{{op}} {{instance}}')),
        graph('Records in a commit', 'short', 'How many records share one sync. Normal: more under load. Many and slow: the disk is the limit.',
              *quantiles('rollcall_store_batch_tasks', '@')),
        stat('Writable', 'short', 'Whether the journal takes everything. Normal: YES. NO pages: submissions get 503; make room, or change the disk.',
             ('rollcall_store_writable{@}', '{{instance}}'), maps=[(0, 0, '✖ NO', VERMILION), (1, 1, '✔ YES', BLUE)], w=4, h=8),
        graph('Store errors', 'short', 'Steps that failed, by kind. Normal: none. busy passes; io, full and corrupt page: see the runbook.',
              top('kind', 'rollcall_store_errors_total{@}', 'increase'), w=10),
        graph('Sizes', 'bytes', 'The database and its log. Normal: the database follows what is kept; the log stays small. A log that grows: a reader '
              'that holds it, or a checkpoint that fails.', by('file', 'rollcall_store_size_bytes{@}'), w=10),
        graph('Free bytes, and in four hours', 'bytes', 'What the disk has left, and what it will have by the trend of the time shown. Normal: both far '
              'above the line. The forecast at 0 is a ticket: make room, or lower `retention`.',
              ('rollcall_store_free_bytes{@}', 'now {{instance}}'),
              ('predict_linear(rollcall_store_free_bytes{@}[range], 14400)', 'in four hours {{instance}}'),
              limits=[limit('DiskFillsSoon', 1)], below=True, w=12),
        graph('JetStream', 'short', 'Where the journal is in NATS: connected, reconnects, and what waits for an acknowledgement. Normal: 1, none, few.',
              ('rollcall_nats_connected{@}', 'connected {{instance}}'), ('increase(rollcall_nats_reconnects_total{@}[~])', 'reconnects {{instance}}'),
              ('rollcall_nats_ack_pending{@}', 'waiting {{instance}}'), w=12),
    ),
    row(
        'Configuration',
        graph('Generation', 'short', 'The generation in force; a step is an applied change. Normal: the same on all instances of a job.',
              ('rollcall_config_generation{@}', '{{instance}}')),
        graph('Tries to load', 'short', 'By outcome. Normal: applied when you changed something. invalid and unreadable: `rollcall check config.yaml`.',
              top('outcome', 'rollcall_config_reloads_total{@}', 'increase')),
        graph('File newer than what is in force', 's', 'By how much the file was changed after it was last taken up. Normal: 0. At the line for five '
              'minutes it is a ticket: `rollcall reload`.',
              ('clamp_min(rollcall_config_file_modified_timestamp_seconds{@} - rollcall_config_last_reload_success_timestamp_seconds{@}, 0)', '{{instance}}'), limits=[60]),
        graph('Time to apply', 's', 'From reading the file to the generation in force. Normal: milliseconds, under a second with 10,000 workers.',
              *quantiles('rollcall_config_apply_seconds', '@')),
        graph('Workers changed', 'short', 'Workers that applied generations added, updated and removed. Normal: what your change meant. More: look at '
              '`rollcall plan` next time.', by('change', 'rollcall_config_worker_changes_total{@}', 'increase')),
        stat('In force', 'short', 'The configuration\'s hash, and whether the store may lose what was accepted. Normal: one hash in a job; full.',
             ('rollcall_config_info{@}', '{{hash}} {{durability}} {{instance}}'), text_mode='name', w=8, h=8),
        closed=True,
    ),
    row(
        'Protocol',
        graph('Frames', 'ops', 'Frames between the server and workers. Normal: execute, accepted, result in step. Many cancel or rejected: see Tasks '
              'and queue.', ('topk(8, ' + RESTS.format('direction, type', 'rollcall_ws_messages_total{@}') + ')', '{{direction}} {{type}}')),
        graph('Bytes', 'bytes', 'Bytes of those frames, a second. Normal: what tasks carry. Many in output: long prints belong into artifacts.',
              ('topk(8, ' + RESTS.format('direction, type', 'rollcall_ws_bytes_total{@}') + ')', '{{direction}} {{type}}')),
        graph('Broken frames', 'short', 'Frames that break the protocol, by kind. Normal: none. A worker program has a mistake: the log names it.',
              by('kind', 'rollcall_ws_protocol_errors_total{@}', 'increase')),
        closed=True,
    ),
    row(
        'Process',
        stat('What runs', 'short', 'Version and build. Normal: the same on all instances, and a release build.',
             ('rollcall_build_info{@}', '{{version}} {{revision}} {{profile}} {{instance}}'), text_mode='name', w=8, h=8),
        graph('CPU', 'short', 'Cores that the process uses. Normal: below one, for the core has one thread. Above: scrapes, checks and the disk.',
              ('rate(process_cpu_seconds_total{@}[~])', '{{instance}}')),
        graph('Memory', 'bytes', 'Resident and virtual memory. Normal: resident is level. Virtual is only addresses.',
              ('process_resident_memory_bytes{@}', 'resident {{instance}}'), ('process_virtual_memory_bytes{@}', 'virtual {{instance}}')),
        graph('File descriptors used', 'percentunit', 'Open ones of those allowed. Normal: one for each worker and caller. At the line it is a ticket: '
              'raise the limit, or find who never closes.', ('process_open_fds{@} / process_max_fds{@}', '{{instance}}'), limits=[limit('FileDescriptors')]),
        graph('Threads', 'short', 'Threads of the process. Normal: a dozen, and level. A rise that does not end is a bug: report it.', ('process_threads{@}', '{{instance}}')),
        closed=True,
    ),
    row(
        'Monitoring',
        graph('Series on each page', 'short', 'Samples of the last scrape. Normal: a few thousand on metrics, eight a worker on workers. At the line '
              'it is told: names are made without end.', ('rollcall_metrics_series{@}', '{{page}} {{instance}}'), limits=[limit('ScrapeSlow', 1)]),
        graph('Time to write a page', 's', 'Normal: milliseconds, half a second for ten thousand workers. It is done beside the loop, so no task waits '
              'for it.', ('rollcall_metrics_collect_seconds{@}', '{{page}} {{instance}}')),
        graph('Scrape duration', 's', 'As Prometheus sees it. Normal: below a second. At the line it is told: the way to the server is slow, or the page is long.',
              ('scrape_duration_seconds{@}', '{{endpoint}} {{instance}}'), limits=[limit('ScrapeSlow')]),
        graph('Samples scraped', 'short', 'As Prometheus counts them. Normal: the same as the series on each page.',
              ('scrape_samples_scraped{@}', '{{endpoint}} {{instance}}')),
        graph('Names folded into other', 'short', 'Observations of names beyond the limit of 200, by family. Normal: none. Find who makes a name for each thing.',
              top('metric', 'rollcall_metrics_label_overflow_total{@}', 'increase')),
        graph('Workers seen and configured', 'short', 'Pages of workers that Prometheus reads, beside the workers that are configured. Normal: seen is at '
              'most configured; mocks and workers that dial in have no page. Fewer than usual: discovery or the network.',
              ('count(up{job="rollcall-worker-hosts"})', 'seen'), ('sum by (instance) (rollcall_workers{@})', 'configured {{instance}}')),
        graph('Seen of what is configured', 'percentunit', 'The share of the configured workers that have their line here, and of the workers that are up, '
              'the share whose own page can be read. Normal: 1. Under the line it is a ticket: alerts on single workers are blind.',
              ('job:rollcall_workers:seen_ratio{job=~"$job"}', 'lines {{job}}'), ('job:rollcall_worker_pages:seen_ratio{job="rollcall-worker-hosts"}', 'pages {{job}}'),
              limits=[limit('WorkersUnseen')], below=True),
        graph('Discovery failures', 'short', 'Times that Prometheus could not read the list of workers. Normal: none but while the server starts; the last '
              'list is kept meanwhile.', ('increase(prometheus_sd_refresh_failures_total{mechanism="http"}[~])', '{{instance}}')),
        graph('Rule evaluation', 's', 'How long Prometheus takes for its groups of rules. Normal: well below their interval of 30 s. Near it, alerts are late.',
              ('topk(8, prometheus_rule_group_last_duration_seconds{rule_group=~".*rollcall.*"})', '{{rule_group}}')),
        closed=True,
    ),
]
