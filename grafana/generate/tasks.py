"""Tasks and their queue: how many, how long, how they end, and why they wait."""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'tasks', 'Rollcall tasks and queue', ['capability']
DESCRIPTION = 'How tasks come, wait, run and end, by capability.'

BY_CAPABILITY = 'sum by (instance, capability) (rate({}[~]))'

ROWS = [
    row(
        'Rate, errors, duration',
        graph('Submissions by outcome', 'ops', 'What was asked, and what became of it. Normal: accepted, and deduplicated where '
              'callers repeat themselves. queue_full: send less or add workers; invalid: a caller has a mistake.',
              by('outcome', 'rollcall_task_submissions_total{@c}', 'rate'), w=12),
        graph('Tasks ended by outcome', 'ops', 'How tasks end. Normal: succeeded. Failed and timed out by their callers\' own code '
              'are theirs to mend; lost and expired are ours.',
              by('outcome', 'rollcall_tasks_completed_total{@c}', 'rate'), w=12),
        graph('Errors: platform and application', 'percentunit', 'The share of tasks that ended badly, by whose fault. Normal: none '
              'by us; what callers send may fail. Ours over half a percent breaks the promise: see the service levels.',
              ('sum by (instance) (rate(rollcall_tasks_completed_total{@c, fault=~"worker|rollcall"}[~])) / sum by (instance) (rate(rollcall_tasks_completed_total{@c}[~]))', 'platform {{instance}}'),
              ('sum by (instance) (rate(rollcall_tasks_completed_total{@c, fault="caller"}[~])) / sum by (instance) (rate(rollcall_tasks_completed_total{@c}[~]))', 'application {{instance}}'), w=12),
        graph('Start wait', 's', 'From eligible to a worker\'s hands. Normal: milliseconds while slots are free. Over 30 s it costs '
              'budget: more slots, or fewer tasks.', *quantiles('rollcall_task_queue_wait_seconds', '@c'), limits=[30], w=12),
        graph('Execution', 's', 'From the worker\'s acknowledgement to its result. Normal: what the work takes. A rise with the '
              'same tasks is a slow worker or what it speaks to.', *quantiles('rollcall_task_execution_seconds', '@c'), w=12),
        graph('Latency, all of it', 's', 'From accepted to final, with waits and retries. Normal: start wait and execution together. '
              'More than those: tasks are tried again, see Retries.', *quantiles('rollcall_task_latency_seconds', '@c'), w=12),
        heatmap('Latency of all tasks', 's', 'How many tasks took how long. Normal: stable bands. Two bands are two kinds of task, '
                'which one average would hide.', 'sum by (le) (increase(rollcall_task_latency_seconds_bucket{@c}[~]))', w=12),
        graph('Hand-over', 's', 'From the decision to the frame written. Normal: far below a millisecond. More: the event loop or a '
              'socket is behind, see Internals.', *quantiles('rollcall_task_dispatch_seconds', '@'), w=12),
    ),
    row(
        'Queue',
        graph('Queue by state', 'short', 'Tasks that are not final. Normal: few queued; running at most as many as there are slots. '
              'Delayed ones wait for their retry.',
              by('state', 'rollcall_queue_tasks{@c}'), stacked=True, w=12),
        graph('Oldest queued task', 's', 'How long the first in the queue has been eligible, by capability. Normal: seconds. At the line '
              'with nothing started it pages: `rollcall tasks explain ID` says what it waits for.',
              ('topk(8, max by (instance, capability) (rollcall_queue_oldest_age_seconds{@c}))', '{{capability}} {{instance}}'),
              limits=[limit('QueueStalled')], w=12),
        graph('Nobody can take them', 'short', 'Queued tasks that no connected worker offers to do. Normal: none. Any for five minutes '
              'page: bring a worker back that offers the capability.',
              top('capability', 'rollcall_unroutable_tasks{@c}'), w=12),
        graph('Queue used', 'percentunit', 'Tasks and bytes, of what the queue takes. Normal: below a tenth. At the line it is a ticket; '
              'at 1 submissions get 429.',
              ('sum by (instance) (rollcall_queue_tasks{@}) / sum by (instance) (rollcall_queue_capacity_tasks{@})', 'tasks {{instance}}'),
              ('rollcall_queue_bytes{@} / rollcall_queue_capacity_bytes{@}', 'bytes {{instance}}'), limits=[limit('QueueFilling')], w=12),
        graph('Why dispatch stops', 'ops', 'Why a pass ended with tasks left that could have run. Normal: no_slot under load. no_worker: '
              'workers are away; store: the journal is behind.',
              top('reason', 'rollcall_dispatch_blocked_total{@}', 'rate'), w=24),
    ),
    row(
        'Retries',
        heatmap('Attempts per task', 'short', 'How many attempts tasks had used when they ended. Normal: one. A band above one is work '
                'that is done again: see by whose fault.',
                'sum by (le) (increase(rollcall_task_attempts_per_task_bucket{@c}[~]))', w=12),
        graph('Retries by reason', 'ops', 'Attempts that were queued again. Normal: none, or a few. worker_lost: connections or '
              'processes break; timed_out: limits are too short, or the work hangs.',
              top('reason', 'rollcall_task_retries_total{@c}', 'rate'), w=12),
        graph('Attempts by outcome', 'ops', 'Every attempt that ended. Normal: succeeded. Superseded: a worker went on with what had '
              'been given to another.',
              by('outcome', 'rollcall_task_attempts_total{@c}', 'rate'), w=12),
        graph('Retries that wait for the budget', 'short', 'Retries that had to wait, because more fail than may be tried again. Normal: '
              'none. Any for ten minutes: find the worker or the tool that fails for everybody.',
              top('capability', 'rollcall_task_retry_budget_exhausted_total{@c}', 'increase'), w=12),
        graph('Dead letters now', 'short', 'Tasks that are set aside. Normal: none. `rollcall tasks ls --dead-letter` lists them; retry '
              'them once the cause is mended.',
              top('capability', 'rollcall_dead_letter_tasks{@c}'), w=12),
        graph('New dead letters', 'short', 'Tasks that were set aside. Normal: none. poison: they took workers down with them, so look at '
              'the input before any retry; max_attempts: they failed each time.',
              by('cause', 'rollcall_task_dead_letters_total{@c}', 'increase'), w=12),
    ),
    row(
        'Fencing',
        graph('Results that were fenced off', 'ops', 'Results that did not count. Normal: duplicates at reconnects. stale_epoch: workers '
              'are silent for longer than their lease, then go on.',
              top('reason', 'rollcall_task_results_discarded_total{@}', 'rate'), w=12),
        graph('Decisions at reconnects', 'ops', 'What became of the attempts that reconnecting workers reported. Normal: none, or resumed. '
              'rerun: the process that had them is gone; aborted: another has them by now.',
              by('decision', 'rollcall_task_reconciliations_total{@}', 'rate'), w=12),
        closed=True,
    ),
    row(
        'Payload',
        heatmap('Sizes of inputs and results', 'bytes', 'How many payloads had how many bytes. Normal: what your tools send. Close to the '
                'limit of a body: use artifacts for the large ones.',
                'sum by (le) (increase(rollcall_task_payload_bytes_bucket{@}[~]))', w=24),
        closed=True,
    ),
    row(
        'Capabilities',
        table('Top capabilities', 'The busiest capabilities in the time shown. Normal: no errors by us, and a wait near 0. Click one to see '
              'only its tasks.', 'capability', [
                  ('tasks a second', 'topk(20, ' + BY_CAPABILITY.format('rollcall_tasks_completed_total{@c}') + ')', 'ops', ()),
                  ('our errors', BY_CAPABILITY.format('rollcall_tasks_completed_total{@c, fault=~"worker|rollcall"}') + ' / ' + BY_CAPABILITY.format('rollcall_tasks_completed_total{@c}'), 'percentunit', ()),
                  ('mean wait', BY_CAPABILITY.format('rollcall_task_queue_wait_seconds_sum{@c}') + ' / ' + BY_CAPABILITY.format('rollcall_task_queue_wait_seconds_count{@c}'), 's', ()),
              ]),
    ),
]
