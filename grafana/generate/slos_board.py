"""The promises: how well they are kept, how fast their budgets burn, and who uses them up."""

from limits import SLOS, limit, speeds
from panels import *

UID, TITLE, VARIABLES = 'slos', 'Rollcall service levels', []
DESCRIPTION = 'Three promises over 30 days: tasks end well, start soon, and the API answers.'

WHAT = [
    ('Tasks', 'tasks that no worker and no server fails', 'capability', 'see Tasks and queue for the ending',
     'sum by (instance{by}) (increase(rollcall_tasks_completed_total{@, fault=~"worker|rollcall", capability!="_probe"}[range]))',
     'sum by (instance{by}) (increase(rollcall_tasks_completed_total{@, outcome!="cancelled", capability!="_probe"}[range]))'),
    ('Starts', 'tasks that a worker has within 30 s', 'capability', 'add slots for the capability that waits',
     'sum by (instance{by}) (increase(rollcall_task_queue_wait_seconds_count{@, capability!="_probe"}[range]))'
     r' - sum by (instance{by}) (increase(rollcall_task_queue_wait_seconds_bucket{@, le=~"30(\\.0)?", capability!="_probe"}[range]))',
     'sum by (instance{by}) (increase(rollcall_task_queue_wait_seconds_count{@, capability!="_probe"}[range]))'),
    ('API', 'requests not answered with 5xx', 'route', 'see API and access for the code',
     'sum by (instance{by}) (increase(rollcall_http_requests_total{@, code=~"5.."}[range]))',
     'sum by (instance{by}) (increase(rollcall_http_requests_total{@}[range]))'),
]


def promise(slo, what):
    name, events, by, then, bad, total = what
    budget, target = slo.budget, 1 - float(slo.budget)
    share = f'({bad}) / ({total})'.replace('{by}', '')
    shown = f'{target * 100:.4g} %'
    return row(
        f'{name}: {shown} of {events}',
        stat(f'{name}: last hour', 'percentunit', f'The share of {events} in the last hour. Normal: over {shown}. Less: {then}.',
             (f'1 - {slo.record}1h{{job=~"$job"}}', '{{job}}'), limits=[target], below=True),
        gauge(f'{name}: budget left, 30 d', 'percentunit', f'What is left of the share that may go wrong in 30 days. Normal: over '
              f'a third. At 0 the promise of {shown} is broken: changes should wait.',
              (f'1 - {share} / {budget}', '{{instance}}'), limits=[0.1, 0.33], below=True, timeFrom='30d'),
        graph(f'{name}: burn rate', 'short', 'How many times faster than allowed the budget is used up, over an hour and over six. '
              f'Normal: below 1. The lines are where a page (14.4, 6) or a ticket (3, 1) begins: {then}.',
              (f'{slo.record}1h{{job=~"$job"}} / {budget}', '1 h {{job}}'),
              (f'{slo.record}6h{{job=~"$job"}} / {budget}', '6 h {{job}}'), limits=speeds(), w=16),
        graph(f'{name}: budget used, 30 d', 'percentunit', 'The share of the budget that was used in the 30 days before each moment. '
              'Normal: below 1 and level. A step is an incident: look what the vertical lines say.',
              (f'{share} / {budget}', '{{instance}}'), limits=[1], w=12, timeFrom='30d'),
        table(f'{name}: who used it', f'Bad events in the time shown. Normal: none. What stands first is what to mend first: {then}.', by,
              [('bad events', f'topk(8, {bad.replace("{by}", ", " + by)})', 'short', ())], w=12),
    )


ROWS = [promise(slo, what) for slo, what in zip(SLOS, WHAT)]
