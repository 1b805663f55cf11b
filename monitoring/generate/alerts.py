"""Every alert beside the error budgets: what is wrong, when, how loud, and the board that shows it.

Pages (critical) are for what users feel, tickets (warning) for causes that will become that, the log
(info) for the monitoring itself. What a rule is for stands in its runbook.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alert:
    """One rule. `wait` is its `for`, `keep` its `keep_firing_for`."""

    name: str
    severity: str
    board: str
    summary: str
    expr: str
    wait: str = ''
    keep: str = ''
    labels: tuple = ()


ALERTS = [
    Alert(
        'RollcallDown', 'critical', 'overview',
        summary='Prometheus cannot scrape Rollcall.',
        expr='up{job="rollcall",endpoint!="workers"} == 0 or absent(up{job="rollcall",endpoint!="workers"})',
        wait='2m',
    ),
    Alert(
        'RollcallQueueStalled', 'critical', 'tasks',
        summary='Tasks for {{ $labels.capability }} are ready but none was started for 5 minutes.',
        expr='max by (job, capability) (min_over_time(rollcall_queue_oldest_age_seconds[5m])) > 300 unless on (job, capability) sum by (job, capability) (increase(rollcall_task_queue_wait_seconds_count[5m])) > 0',
        wait='2m',
    ),
    Alert(
        'RollcallNoWorkerForCapability', 'critical', 'tasks',
        summary='{{ $value }} tasks need {{ $labels.capability }} and no connected worker offers it.',
        expr='sum by (job, capability) (min_over_time(rollcall_unroutable_tasks[2m])) > 0',
        wait='5m',
    ),
    Alert(
        'RollcallProbeFailing', 'critical', 'pool',
        summary='No probe has come back from pool {{ $labels.pool }} for 5 minutes, although it has free slots.',
        expr='sum by (job, pool) (increase(rollcall_task_attempts_total{capability="_probe",outcome="succeeded"}[5m])) == 0 and on (job, pool) sum by (job, pool) (min_over_time(rollcall_worker_slots{state="free"}[5m])) > 0',
        wait='2m',
    ),
    Alert(
        'RollcallStoreNotWritable', 'critical', 'internals',
        summary='The queue store refuses writes; submissions get 503.',
        expr='max_over_time(rollcall_store_writable[1m]) == 0',
        wait='1m',
    ),
    Alert(
        'RollcallStoreErrors', 'critical', 'internals',
        summary='The queue store hit {{ $labels.kind }} errors.',
        expr='sum by (job, kind) (increase(rollcall_store_errors_total{kind=~"io|corrupt|full"}[5m])) > 0',
        wait='0m',
    ),
    Alert(
        'RollcallPoolDegraded', 'critical', 'pool',
        summary='Pool {{ $labels.pool }} has {{ $value | humanizePercentage }} of its workers available.',
        expr='job_pool:rollcall_workers:available_ratio < 0.3',
        wait='5m',
    ),
    Alert(
        'RollcallPoolDegraded', 'warning', 'pool',
        summary='Pool {{ $labels.pool }} has {{ $value | humanizePercentage }} of its workers available.',
        expr='job_pool:rollcall_workers:available_ratio < 0.7',
        wait='10m',
    ),
    Alert(
        'RollcallMassDisconnect', 'critical', 'pool',
        summary='Over 20% of pool {{ $labels.pool }} disconnected within 5 minutes.',
        expr='sum by (job, pool) (increase(rollcall_worker_disconnects_total{reason!~"removed_from_config|moved|scaled_in|drained|server_shutdown"}[5m])) > 0.2 * sum by (job, pool) (rollcall_workers) > 5',
        wait='0m',
        keep='10m',
    ),
    Alert(
        'RollcallWorkerDown', 'warning', 'worker',
        summary='Worker {{ $labels.worker }} of pool {{ $labels.pool }} is down.',
        expr='rollcall_worker_up == 0',
        wait='15m',
    ),
    Alert(
        'RollcallWorkerFlapping', 'warning', 'worker',
        summary='Worker {{ $labels.worker }} reconnected {{ $value | humanize }} times in an hour.',
        expr='increase(rollcall_worker_reconnects_total[1h]) > 10',
        wait='5m',
    ),
    Alert(
        'RollcallHeartbeatsLate', 'warning', 'pool',
        summary='{{ $value | humanizePercentage }} of heartbeats of pool {{ $labels.pool }} are late or missed.',
        expr='sum by (job, pool) (rate(rollcall_worker_heartbeats_total{outcome!="on_time"}[5m])) / sum by (job, pool) (rate(rollcall_worker_heartbeats_total[5m])) > 0.05',
        wait='10m',
    ),
    Alert(
        'RollcallRuntimeLag', 'warning', 'internals',
        summary='The server event loop lags {{ $value | humanizeDuration }}: heartbeats and dispatch suffer.',
        expr='histogram_quantile(0.99, sum by (job, instance, le) (rate(rollcall_runtime_lag_seconds_bucket[5m]))) > 0.25',
        wait='10m',
    ),
    Alert(
        'RollcallLoopStuck', 'critical', 'internals',
        summary='Loop {{ $labels.loop }} has not ticked for {{ $value | humanizeDuration }}.',
        expr='time() - rollcall_loop_last_tick_timestamp_seconds > 120',
        wait='1m',
    ),
    Alert(
        'RollcallQueueFilling', 'warning', 'tasks',
        summary='The queue nears its limit; submissions will get 429.',
        expr='sum by (job) (rollcall_queue_tasks) / max by (job) (rollcall_queue_capacity_tasks) > 0.8 or predict_linear(rollcall_queue_bytes[1h], 14400) > rollcall_queue_capacity_bytes',
        wait='15m',
    ),
    Alert(
        'RollcallDeadLetters', 'warning', 'tasks',
        summary='Tasks of {{ $labels.capability }} were quarantined.',
        expr='sum by (job, capability) (increase(rollcall_task_dead_letters_total[10m])) > 0',
        wait='0m',
    ),
    Alert(
        'RollcallRetryBudgetExhausted', 'warning', 'tasks',
        summary='Retries of {{ $labels.capability }} exceed the retry budget.',
        expr='sum by (job, capability) (increase(rollcall_task_retry_budget_exhausted_total[5m])) > 0',
        wait='10m',
    ),
    Alert(
        'RollcallZombieResults', 'warning', 'tasks',
        summary='Workers report results for leases they lost; the lease is shorter than the tasks.',
        expr='sum by (job, reason) (increase(rollcall_task_results_discarded_total{reason="stale_epoch"}[15m])) > 10',
        wait='15m',
    ),
    Alert(
        'RollcallConfigReloadFailed', 'critical', 'internals',
        summary='The last topology reload was rejected; the previous one stays in force.',
        expr='max_over_time(rollcall_config_last_reload_successful[5m]) == 0',
        wait='5m',
    ),
    Alert(
        'RollcallConfigNotApplied', 'warning', 'internals',
        summary='The topology file changed and no reload followed (watcher broken?).',
        expr='rollcall_config_file_modified_timestamp_seconds > rollcall_config_last_reload_success_timestamp_seconds + 60 and rollcall_config_last_reload_successful == 1',
        wait='5m',
    ),
    Alert(
        'RollcallConfigDiverged', 'warning', 'internals',
        summary='Rollcall instances run different topologies.',
        expr='count by (job) (count by (job, hash) (rollcall_config_info)) > 1',
        wait='15m',
    ),
    Alert(
        'RollcallAutoscalerLimited', 'warning', 'autoscaling',
        summary='Pool {{ $labels.pool }} is saturated at its maximum size.',
        expr='max by (job, pool) (rollcall_autoscaler_limited{limit="max"}) == 1 and on (job, pool) job_pool:rollcall_slots:utilization_ratio > 0.95',
        wait='15m',
    ),
    Alert(
        'RollcallAutoscalerHookFailing', 'warning', 'autoscaling',
        summary='Scaling hook of pool {{ $labels.pool }} fails.',
        expr='sum by (job, pool) (rate(rollcall_autoscaler_hook_calls_total{outcome!="ok"}[10m])) / sum by (job, pool) (rate(rollcall_autoscaler_hook_calls_total[10m])) > 0.5',
        wait='10m',
    ),
    Alert(
        'RollcallAutoscalerDiverged', 'warning', 'autoscaling',
        summary='Pool {{ $labels.pool }} stays {{ $value }} workers off its target.',
        expr='abs(rollcall_autoscaler_desired_workers - on (job, pool) sum by (job, pool) (rollcall_workers{state!~"draining|disconnected"})) > 1 and on (job, pool) changes(rollcall_autoscaler_desired_workers[15m]) == 0',
        wait='15m',
    ),
    Alert(
        'RollcallStoreSlow', 'warning', 'internals',
        summary='Queue commits take {{ $value | humanizeDuration }} at p99.',
        expr='histogram_quantile(0.99, sum by (job, le) (rate(rollcall_store_commit_seconds_bucket[5m]))) > 0.25',
        wait='10m',
    ),
    Alert(
        'RollcallDiskFillsSoon', 'warning', 'internals',
        summary='The queue disk fills within 4 hours.',
        expr='predict_linear(rollcall_store_free_bytes[1h], 14400) < 0 or rollcall_store_free_bytes < 1e9',
        wait='10m',
    ),
    Alert(
        'RollcallAuthFailures', 'warning', 'api',
        summary='Authentication failures on the {{ $labels.plane }} plane.',
        expr='sum by (job, plane) (rate(rollcall_auth_attempts_total{outcome!="ok"}[5m])) > 5',
        wait='5m',
    ),
    Alert(
        'RollcallCertificateExpiry', 'warning', 'api',
        summary='Certificate {{ $labels.cert }} expires in {{ $value | humanizeDuration }}.',
        expr='rollcall_tls_certificate_expiry_timestamp_seconds - time() < 7 * 86400',
        wait='1h',
    ),
    Alert(
        'RollcallFileDescriptors', 'warning', 'internals',
        summary='File descriptors are running out; connections will be refused.',
        expr='process_open_fds{job="rollcall"} / process_max_fds{job="rollcall"} > 0.8',
        wait='5m',
    ),
    Alert(
        'RollcallPanics', 'warning', 'internals',
        summary='A Rollcall task panicked.',
        expr='increase(rollcall_panics_total[15m]) > 0',
        wait='0m',
    ),
    Alert(
        'RollcallLabelOverflow', 'info', 'internals',
        summary='Label values of {{ $labels.metric }} were folded into "other".',
        expr='increase(rollcall_metrics_label_overflow_total[15m]) > 0',
        wait='0m',
    ),
    Alert(
        'RollcallScrapeSlow', 'info', 'internals',
        summary='Scraping Rollcall is slow or returns too many series.',
        expr='scrape_duration_seconds{job=~"rollcall.*"} > 5 or scrape_samples_scraped{job="rollcall",endpoint!="workers"} > 10000',
        wait='10m',
    ),
    Alert(
        'RollcallWorkerDiscoveryFailing', 'warning', 'internals',
        summary='Prometheus cannot read the worker target list.',
        expr='increase(prometheus_sd_refresh_failures_total{mechanism="http"}[10m]) > 0',
        wait='20m',
    ),
    Alert(
        'RollcallWorkersUnseen', 'warning', 'internals',
        summary='Prometheus sees {{ $value | humanizePercentage }} of the workers that it ought to (job {{ $labels.job }}).',
        expr='job:rollcall_workers:seen_ratio < 0.9 or job:rollcall_worker_pages:seen_ratio < 0.9',
        wait='10m',
    ),
    Alert(
        'RollcallWatchdog', 'none', 'overview',
        summary='Always firing: proves Prometheus to Alertmanager delivery works.',
        expr='vector(1)',
    ),
]
