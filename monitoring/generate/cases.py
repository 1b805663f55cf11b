"""Unit tests of the alerts, for promtool: for each one that fires and one that must not.

Samples are 30 s apart. `fires` holds the labels of each alert expected at `at`; none means silence.
"""

from dataclasses import dataclass

HERE = 'job="rollcall",instance="a"'
ME = {'job': 'rollcall', 'instance': 'a'}


@dataclass(frozen=True)
class Case:
    story: str
    series: dict
    at: str
    fires: tuple = ()
    says: str = ''


def page(*more, **labels):
    return dict(*more, severity='critical', **labels)


def ticket(*more, **labels):
    return dict(*more, severity='warning', **labels)


def note(*more, **labels):
    return dict(*more, severity='info', **labels)


def one(metric, values, labels=''):
    """A series of this instance."""
    return {f'{metric}{{{HERE}{"," if labels else ""}{labels}}}': values}


# A budget that burns fast enough pages by both of its fast windows.
BOTH = (
    page(job='rollcall', long='1h', short='5m'),
    page(job='rollcall', long='6h', short='30m'),
)
WEB = {'job': 'rollcall', 'capability': 'web'}
POOL = {'job': 'rollcall', 'pool': 'p'}
WORKER = {**ME, 'endpoint': 'workers', 'worker': 'w1', 'pool': 'p'}


def seen(worker, up, page):
    """A worker as its server sees it, and whether Prometheus can read its own page."""
    labels = f'endpoint="workers",worker="{worker}",pool="p"'
    hosts = f'up{{job="rollcall-worker-hosts",instance="{worker}:1",worker="{worker}",pool="p"}}'
    return {**one('rollcall_worker_up', up, labels), hosts: page}


def ended(outcome, fault, values):
    return one('rollcall_tasks_completed_total', values, f'capability="web",outcome="{outcome}",fault="{fault}"')


def probes(values):
    return one('rollcall_task_attempts_total', values, 'capability="_probe",pool="p",outcome="succeeded"')


def waits(edge, quick, all_of_them):
    name = 'rollcall_task_queue_wait_seconds'
    return {
        **one(f'{name}_bucket', quick, f'capability="web",le="{edge}"'),
        **one(f'{name}_bucket', all_of_them, 'capability="web",le="+Inf"'),
        **one(f'{name}_count', all_of_them, 'capability="web"'),
    }


def requests(code, values):
    return one('rollcall_http_requests_total', values, f'method="GET",route="/v1/tasks",code="{code}"')


def workers(state, values):
    return one('rollcall_workers', values, f'pool="p",state="{state}"')


def slots(used, free):
    return {
        **one('rollcall_worker_slots', used, 'pool="p",state="used"'),
        **one('rollcall_worker_slots', free, 'pool="p",state="free"'),
    }


def of_worker(metric, values):
    return one(metric, values, 'endpoint="workers",worker="w1",pool="p"')


def slow_half(metric, below, total):
    """A histogram with this much at or below 0.25 s and all at or below 0.5 s."""
    return {
        **one(f'{metric}_bucket', below, 'le="0.25"'),
        **one(f'{metric}_bucket', total, 'le="0.5"'),
        **one(f'{metric}_bucket', total, 'le="+Inf"'),
    }


def gone(reason):
    return {
        **workers('ready', '100x10 60x40'),
        **workers('disconnected', '0x10 40x40'),
        **one('rollcall_worker_disconnects_total', '0x10 40x40', f'pool="p",reason="{reason}"'),
    }


CASES = {
    'RollcallTaskErrorBudgetBurn': [
        Case('a tenth of the tasks is lost', {
            **ended('succeeded', 'none', '0+90x120'), **ended('lost', 'worker', '0+10x120'),
        }, '30m', BOTH),
        Case('one lost task of three wakes nobody', {
            **ended('succeeded', 'none', '0x10 1 2x200'), **ended('lost', 'worker', '0x10 1x200'),
        }, '60m'),
        Case('callers whose own code fails burn no budget', {
            **ended('succeeded', 'none', '0+50x120'), **ended('failed', 'caller', '0+50x120'),
        }, '30m'),
    ],
    'RollcallProbeFailing': [
        Case('none comes back although slots are free', {**probes('0+2x10 20x50'), **slots('0x60', '4x60')}, '20m', (page(POOL),),
             'No probe has come back from pool p for 5 minutes, although it has free slots.'),
        Case('two a minute come back', {**probes('0+1x60'), **slots('0x60', '4x60')}, '20m'),
        Case('all slots are taken, so that they have to wait', {**probes('7x60'), **slots('4x60', '0x60')}, '20m'),
        Case('a pool that has nothing to be asked', slots('0x60', '4x60'), '20m'),
    ],
    'RollcallQueueWaitBudgetBurn': [
        Case('half of the tasks wait over 30 s', waits('30', '0+50x120', '0+100x120'), '30m', BOTH),
        Case('the same, as Prometheus 3 writes the bucket', waits('30.0', '0+50x120', '0+100x120'), '30m', BOTH),
        Case('all start in time', waits('30', '0+100x120', '0+100x120'), '30m'),
    ],
    'RollcallApiErrorBudgetBurn': [
        Case('a tenth of the answers is a 503', {
            **requests('200', '0+90x120'), **requests('503', '0+10x120'),
        }, '30m', BOTH),
        Case('refusals are the callers\' own', {
            **requests('200', '0+50x120'), **requests('429', '0+50x120'),
        }, '30m'),
    ],
    'RollcallDown': [
        Case('scrapes fail', {'up{' + HERE + '}': '1x5 0x20'}, '6m', (page(ME),)),
        Case('no such target', {'up{job="prometheus"}': '1x20'}, '6m', (page(job='rollcall'),)),
        Case('one failed scrape, and a per-worker page that is too slow', {
            'up{' + HERE + '}': '1x5 0 1x20', 'up{' + HERE + ',endpoint="workers"}': '0x40',
        }, '6m'),
    ],
    'RollcallQueueStalled': [
        Case('tasks age and none starts', {
            **one('rollcall_queue_oldest_age_seconds', '0+30x80', 'capability="web"'),
            **one('rollcall_task_queue_wait_seconds_count', '7x80', 'capability="web"'),
        }, '25m', (page(WEB),), 'Tasks for web are ready but none was started for 5 minutes.'),
        Case('a long queue that moves', {
            **one('rollcall_queue_oldest_age_seconds', '0+30x80', 'capability="web"'),
            **one('rollcall_task_queue_wait_seconds_count', '0+3x80', 'capability="web"'),
        }, '25m'),
    ],
    'RollcallNoWorkerForCapability': [
        Case('nobody offers it', one('rollcall_unroutable_tasks', '3x40', 'capability="web"'), '10m', (page(WEB),),
             '3 tasks need web and no connected worker offers it.'),
        Case('its only worker reconnects', one('rollcall_unroutable_tasks', '3x6 0x40', 'capability="web"'), '10m'),
    ],
    'RollcallStoreNotWritable': [
        Case('the disk is full', one('rollcall_store_writable', '1x5 0x20'), '8m', (page(ME),)),
        Case('one hiccup', one('rollcall_store_writable', '1x5 0 1x20'), '4m'),
    ],
    'RollcallStoreErrors': [
        Case('a write failed', one('rollcall_store_errors_total', '0x5 1x20', 'op="write",kind="io"'), '4m',
             (page(job='rollcall', kind='io'),), 'The queue store hit io errors.'),
        Case('a busy database is only slow', one('rollcall_store_errors_total', '0x5 1x20', 'op="write",kind="busy"'), '4m'),
    ],
    'RollcallPoolDegraded': [
        Case('most of it is gone', {**workers('ready', '2x40'), **workers('disconnected', '8x40')}, '8m',
             (page(POOL),), 'Pool p has 20% of its workers available.'),
        Case('a good part of it is gone', {**workers('ready', '6x60'), **workers('ejected', '4x60')}, '15m',
             (ticket(POOL),), 'Pool p has 60% of its workers available.'),
        Case('a rolling update', {
            **workers('ready', '10x5 6x8 10x40'), **workers('draining', '0x5 4x8 0x40'),
        }, '15m'),
    ],
    'RollcallMassDisconnect': [
        Case('heartbeats stop', gone('heartbeat_timeout'), '7m', (page(POOL),),
             'Over 20% of pool p disconnected within 5 minutes.'),
        Case('still told ten minutes later', gone('heartbeat_timeout'), '18m', (page(POOL),),
             'Over 20% of pool p disconnected within 5 minutes.'),
        Case('removed by a person', gone('removed_from_config'), '7m'),
    ],
    'RollcallWorkerDown': [
        Case('it stays away', of_worker('rollcall_worker_up', '0x60'), '20m', (ticket(WORKER),),
             'Worker w1 of pool p is down.'),
        Case('it comes back', of_worker('rollcall_worker_up', '0x20 1x60'), '20m'),
    ],
    'RollcallWorkerFlapping': [
        Case('it reconnects twice a minute', of_worker('rollcall_worker_reconnects_total', '0+1x200'), '70m',
             (ticket(WORKER),), 'Worker w1 reconnected 120 times in an hour.'),
        Case('three reconnects', of_worker('rollcall_worker_reconnects_total', '0+1x3 3x200'), '70m'),
    ],
    'RollcallHeartbeatsLate': [
        Case('every tenth is late', {
            **one('rollcall_worker_heartbeats_total', '0+9x60', 'pool="p",outcome="on_time"'),
            **one('rollcall_worker_heartbeats_total', '0+1x60', 'pool="p",outcome="late"'),
        }, '20m', (ticket(POOL),), '10% of heartbeats of pool p are late or missed.'),
        Case('every hundredth is late', {
            **one('rollcall_worker_heartbeats_total', '0+99x60', 'pool="p",outcome="on_time"'),
            **one('rollcall_worker_heartbeats_total', '0+1x60', 'pool="p",outcome="late"'),
        }, '20m'),
    ],
    'RollcallRuntimeLag': [
        Case('sleeps end late', slow_half('rollcall_runtime_lag_seconds', '0x60', '0+10x60'), '20m', (ticket(ME),),
             'The server event loop lags 497.5ms: heartbeats and dispatch suffer.'),
        Case('sleeps end in time', slow_half('rollcall_runtime_lag_seconds', '0+10x60', '0+10x60'), '20m'),
    ],
    'RollcallLoopStuck': [
        Case('a loop hangs', one('rollcall_loop_last_tick_timestamp_seconds', '0+30x4 120x40', 'loop="dispatch"'), '10m',
             (page(ME, loop='dispatch'),), 'Loop dispatch has not ticked for 8m 0s.'),
        Case('a loop that idles still ticks',
             one('rollcall_loop_last_tick_timestamp_seconds', '0+30x40', 'loop="config"'), '10m'),
    ],
    'RollcallQueueFilling': [
        Case('nine tenths are used', {
            **one('rollcall_queue_tasks', '90x80', 'capability="web",state="queued"'),
            **one('rollcall_queue_capacity_tasks', '100x80'),
        }, '20m', (ticket(job='rollcall'),)),
        Case('its bytes grow towards the limit', {
            **one('rollcall_queue_bytes', '0+5000000x80'), **one('rollcall_queue_capacity_bytes', '1000000000x80'),
        }, '30m', (ticket(ME),)),
        Case('half are used, and steady', {
            **one('rollcall_queue_tasks', '50x80', 'capability="web",state="queued"'),
            **one('rollcall_queue_capacity_tasks', '100x80'),
            **one('rollcall_queue_bytes', '5000x80'), **one('rollcall_queue_capacity_bytes', '1000000000x80'),
        }, '30m'),
    ],
    'RollcallDeadLetters': [
        Case('a poisonous task', one('rollcall_task_dead_letters_total', '0x5 1x40', 'capability="web",cause="poison"'),
             '5m', (ticket(WEB),), 'Tasks of web were quarantined.'),
        Case('those of yesterday', one('rollcall_task_dead_letters_total', '3x40', 'capability="web",cause="poison"'), '15m'),
    ],
    'RollcallRetryBudgetExhausted': [
        Case('retries wait for the budget', one('rollcall_task_retry_budget_exhausted_total', '0+1x60', 'capability="web"'),
             '16m', (ticket(WEB),), 'Retries of web exceed the retry budget.'),
        Case('one burst', one('rollcall_task_retry_budget_exhausted_total', '0x2 9x60', 'capability="web"'), '16m'),
    ],
    'RollcallZombieResults': [
        Case('workers that lost their leases report', one('rollcall_task_results_discarded_total', '0+1x80', 'reason="stale_epoch"'),
             '35m', (ticket(job='rollcall', reason='stale_epoch'),)),
        Case('results sent twice are harmless', one('rollcall_task_results_discarded_total', '0+1x80', 'reason="duplicate"'), '35m'),
    ],
    'RollcallConfigReloadFailed': [
        Case('a mistake stays in the file', one('rollcall_config_last_reload_successful', '1x2 0x40'), '13m', (page(ME),)),
        Case('a mistake that was mended', one('rollcall_config_last_reload_successful', '1x2 0x6 1x40'), '13m'),
    ],
    'RollcallConfigNotApplied': [
        Case('nobody takes the change up', {
            **one('rollcall_config_file_modified_timestamp_seconds', '100x5 200x60'),
            **one('rollcall_config_last_reload_success_timestamp_seconds', '101x65'),
            **one('rollcall_config_last_reload_successful', '1x65'),
        }, '20m', (ticket(ME),)),
        Case('the change is taken up', {
            **one('rollcall_config_file_modified_timestamp_seconds', '100x5 200x60'),
            **one('rollcall_config_last_reload_success_timestamp_seconds', '101x5 201x60'),
            **one('rollcall_config_last_reload_successful', '1x65'),
        }, '20m'),
    ],
    'RollcallConfigDiverged': [
        Case('two instances, two topologies', {
            'rollcall_config_info{job="rollcall",instance="a",hash="1f",durability="full"}': '1x60',
            'rollcall_config_info{job="rollcall",instance="b",hash="2e",durability="full"}': '1x60',
        }, '20m', (ticket(job='rollcall'),)),
        Case('one after the other', {
            'rollcall_config_info{job="rollcall",instance="a",hash="1f",durability="full"}': '1x10 _x50',
            'rollcall_config_info{job="rollcall",instance="a",hash="2e",durability="full"}': '_x10 1x50',
            'rollcall_config_info{job="rollcall",instance="b",hash="2e",durability="full"}': '1x60',
        }, '25m'),
    ],
    'RollcallAutoscalerLimited': [
        Case('full, and at its maximum', {
            **one('rollcall_autoscaler_limited', '1x60', 'pool="p",limit="max"'), **slots('97x60', '3x60'),
        }, '20m', (ticket(POOL),), 'Pool p is saturated at its maximum size.'),
        Case('at its maximum with room to spare', {
            **one('rollcall_autoscaler_limited', '1x60', 'pool="p",limit="max"'), **slots('50x60', '50x60'),
        }, '20m'),
    ],
    'RollcallAutoscalerHookFailing': [
        Case('it always fails', {
            **one('rollcall_autoscaler_hook_calls_total', '0+1x60', 'pool="p",outcome="error"'),
            **one('rollcall_autoscaler_hook_calls_total', '0x60', 'pool="p",outcome="ok"'),
        }, '25m', (ticket(POOL),), 'Scaling hook of pool p fails.'),
        Case('it seldom fails', {
            **one('rollcall_autoscaler_hook_calls_total', '0+1x60', 'pool="p",outcome="timeout"'),
            **one('rollcall_autoscaler_hook_calls_total', '0+9x60', 'pool="p",outcome="ok"'),
        }, '25m'),
    ],
    'RollcallAutoscalerDiverged': [
        Case('four workers never come', {
            **one('rollcall_autoscaler_desired_workers', '10x100', 'pool="p"'), **workers('ready', '6x100'),
        }, '40m', (ticket(POOL),), 'Pool p stays 4 workers off its target.'),
        Case('draining ones are on their way out', {
            **one('rollcall_autoscaler_desired_workers', '6x100', 'pool="p"'),
            **workers('ready', '6x100'), **workers('draining', '4x100'),
        }, '40m'),
    ],
    'RollcallAuthFailures': [
        Case('somebody tries keys', one('rollcall_auth_attempts_total', '0+300x60', 'plane="api",outcome="unknown"'), '12m',
             (ticket(job='rollcall', plane='api'),), 'Authentication failures on the api plane.'),
        Case('everybody has one', one('rollcall_auth_attempts_total', '0+300x60', 'plane="api",outcome="ok"'), '12m'),
    ],
    'RollcallCertificateExpiry': [
        Case('three days are left', one('rollcall_tls_certificate_expiry_timestamp_seconds', '263100x300', 'cert="api"'), '65m',
             (ticket(ME, cert='api'),), 'Certificate api expires in 3d 0h 0m 0s.'),
        Case('three months are left', one('rollcall_tls_certificate_expiry_timestamp_seconds', '7776000x300', 'cert="api"'), '65m'),
    ],
    'RollcallStoreSlow': [
        Case('syncs take long', slow_half('rollcall_store_commit_seconds', '0x60', '0+10x60'), '20m',
             (ticket(job='rollcall'),), 'Queue commits take 497.5ms at p99.'),
        Case('syncs are quick', slow_half('rollcall_store_commit_seconds', '0+10x60', '0+10x60'), '20m'),
    ],
    'RollcallDiskFillsSoon': [
        Case('it shrinks', one('rollcall_store_free_bytes', '20000000000-100000000x80'), '20m', (ticket(ME),)),
        Case('little is left', one('rollcall_store_free_bytes', '900000000x80'), '20m', (ticket(ME),)),
        Case('it stays', one('rollcall_store_free_bytes', '50000000000x80'), '20m'),
        Case('a store without a disk', one('rollcall_store_free_bytes', 'NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN'), '4m'),
    ],
    'RollcallFileDescriptors': [
        Case('nine tenths are open', {**one('process_open_fds', '900x40'), **one('process_max_fds', '1000x40')}, '8m',
             (ticket(ME),)),
        Case('a tenth is open', {**one('process_open_fds', '100x40'), **one('process_max_fds', '1000x40')}, '8m'),
    ],
    'RollcallPanics': [
        Case('one', one('rollcall_panics_total', '0x5 1x40'), '5m', (ticket(ME),)),
        Case('those of yesterday', one('rollcall_panics_total', '2x80'), '20m'),
    ],
    'RollcallLabelOverflow': [
        Case('names beyond the limit', one('rollcall_metrics_label_overflow_total', '0x5 5x40', 'metric="rollcall_task_latency_seconds"'),
             '5m', (note(ME, metric='rollcall_task_latency_seconds'),),
             'Label values of rollcall_task_latency_seconds were folded into "other".'),
        Case('those of yesterday', one('rollcall_metrics_label_overflow_total', '5x80', 'metric="rollcall_task_latency_seconds"'), '20m'),
    ],
    'RollcallScrapeSlow': [
        Case('six seconds', one('scrape_duration_seconds', '6x40'), '15m', (note(ME),)),
        Case('twenty thousand series', one('scrape_samples_scraped', '20000x40'), '15m', (note(ME),)),
        Case('the page of ten thousand workers is long, and quick', {
            **one('scrape_samples_scraped', '80000x40', 'endpoint="workers"'),
            **one('scrape_duration_seconds', '0.4x40', 'endpoint="workers"'),
        }, '15m'),
    ],
    'RollcallWorkerDiscoveryFailing': [
        Case('the list is refused',
             {'prometheus_sd_refresh_failures_total{job="prometheus",instance="m",mechanism="http"}': '0+1x80'}, '35m',
             (ticket(job='prometheus', instance='m', mechanism='http'),)),
        Case('one refusal while the server started',
             {'prometheus_sd_refresh_failures_total{job="prometheus",instance="m",mechanism="http"}': '0x5 1x80'}, '35m'),
    ],
    'RollcallWorkersUnseen': [
        Case('nobody scrapes the page of workers', workers('ready', '4x60'), '15m', (ticket(job='rollcall'),),
             'Prometheus sees 0% of the workers that it ought to (job rollcall).'),
        Case('a page cannot be read although its worker is up', {
            **seen('w1', up='1x60', page='1x60'), **seen('w2', up='1x60', page='0x60'),
        }, '15m', (ticket(job='rollcall-worker-hosts'),),
             'Prometheus sees 50% of the workers that it ought to (job rollcall-worker-hosts).'),
        Case('a worker that is down has no page either', {
            **workers('ready', '1x60'), **workers('disconnected', '1x60'),
            **seen('w1', up='1x60', page='1x60'), **seen('w2', up='0x60', page='0x60'),
        }, '15m'),
        Case('nothing is configured', workers('ready', '0x60'), '15m'),
    ],
    # It always fires, so no test can show it silent; that it never pages is shown by its route.
    'RollcallWatchdog': [
        Case('with no data at all', {'up{job="rollcall"}': '_x5'}, '1m', ({'severity': 'none'},)),
    ],
}
