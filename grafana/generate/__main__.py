"""Writes grafana/dashboards from the descriptions beside this file.

    python3 grafana/generate            write them
    python3 grafana/generate --check    say which files are not what the descriptions say
"""

import json
import sys
from pathlib import Path

import api
import autoscaling
import internals
import overview
import pool
import slos_board
import tasks
import worker
from panels import BASE, BLUE, GREY, ORANGE, SKY, SOURCE, VERMILION

BOARDS = [overview, slos_board, tasks, pool, worker, autoscaling, api, internals]
HOME = Path(__file__).resolve().parent.parent

VARIABLES = {
    'job': 'label_values(rollcall_build_info, job)',
    'instance': 'label_values(rollcall_build_info{job=~"$job"}, instance)',
    'pool': f'label_values(rollcall_workers{{{BASE}}}, pool)',
    'capability': f'label_values(rollcall_queue_oldest_age_seconds{{{BASE}}}, capability)',
    'worker': f'label_values(rollcall_worker_up{{{BASE}, pool=~"$pool"}}, worker)',
}


def annotation(name, expr, title, colour, tags, timed=False):
    made = {
        'name': name, 'expr': expr, 'titleFormat': title, 'textFormat': '', 'tagKeys': tags,
        'iconColor': colour, 'enable': True, 'step': '60s', 'datasource': SOURCE,
    }
    if timed:
        made['useValueForTime'] = 'on'
    return made


ANNOTATIONS = [
    {
        'builtIn': 1, 'name': 'Annotations & Alerts', 'type': 'dashboard', 'enable': True, 'hide': True,
        'iconColor': SKY, 'datasource': {'type': 'grafana', 'uid': '-- Grafana --'},
    },
    annotation(
        'Configuration loaded', f'rollcall_config_last_reload_success_timestamp_seconds{{{BASE}}} * 1000',
        'configuration loaded', BLUE, 'instance', timed=True,
    ),
    annotation(
        'Reload rejected',
        f'increase(rollcall_config_reloads_total{{{BASE}, outcome=~"unreadable|invalid|rolled_back"}}[$__interval]) > 0',
        'reload rejected', VERMILION, 'instance,trigger,outcome',
    ),
    annotation(
        'Restarts',
        f'process_start_time_seconds{{{BASE}}} * 1000 * on (job, instance) group_left (version)'
        f' rollcall_build_info{{{BASE}}}',
        'server started', ORANGE, 'instance,version', timed=True,
    ),
    annotation(
        'Alerts', 'ALERTS{job=~"$job", alertname=~"Rollcall.*", alertstate="firing"}',
        '{{alertname}}', GREY, 'alertname,severity,pool,capability',
    ),
]


def variables(names):
    yield {
        'type': 'datasource', 'name': 'datasource', 'label': 'Data source', 'query': 'prometheus',
        'current': {}, 'hide': 0, 'includeAll': False, 'multi': False, 'options': [], 'refresh': 1, 'regex': '',
        'skipUrlSync': False,
    }
    for name in names:
        text = VARIABLES[name]
        yield {
            'type': 'query', 'name': name, 'label': name,
            'query': {'query': text, 'refId': 'PrometheusVariableQueryEditor-VariableQuery'},
            'datasource': SOURCE, 'allValue': '.+', 'includeAll': True, 'multi': True, 'refresh': 2, 'sort': 1,
            'current': {'selected': True, 'text': ['All'], 'value': ['$__all']},
            'hide': 0, 'options': [], 'regex': '', 'skipUrlSync': False,
        }


def placed(rows):
    """Panels from left to right and top to bottom; those of closed rows within them."""
    shown, at, number = [], 0, 0
    for each in rows:
        number += 1
        head = {
            'type': 'row', 'title': each['title'], 'id': number, 'collapsed': each['closed'],
            'gridPos': {'h': 1, 'w': 24, 'x': 0, 'y': at}, 'panels': [],
        }
        shown.append(head)
        at, x, height = at + 1, 0, 0
        for panel in each['panels']:
            number += 1
            size = panel['gridPos']
            if x + size['w'] > 24:
                at, x, height = at + height, 0, 0
            panel = {**panel, 'id': number, 'gridPos': {**size, 'x': x, 'y': at}}
            x, height = x + size['w'], max(height, size['h'])
            (head['panels'] if each['closed'] else shown).append(panel)
        at += height
    return shown


def board(described):
    names = ['job', 'instance', *[name for name in ['pool', 'capability', 'worker'] if name in described.VARIABLES]]
    return {
        'uid': f'rollcall-{described.UID}', 'title': described.TITLE, 'description': described.DESCRIPTION,
        'tags': ['rollcall'], 'editable': False, 'refresh': '30s', 'timezone': 'browser', 'graphTooltip': 1,
        'schemaVersion': 39, 'version': 1, 'id': None, 'weekStart': '', 'fiscalYearStartMonth': 0,
        'time': {'from': 'now-1h', 'to': 'now'}, 'timepicker': {},
        'links': [{
            'type': 'dashboards', 'title': 'Rollcall', 'tags': ['rollcall'], 'asDropdown': True,
            'includeVars': True, 'keepTime': True, 'targetBlank': False, 'icon': 'external link', 'tooltip': '', 'url': '',
        }],
        'annotations': {'list': ANNOTATIONS},
        'templating': {'list': list(variables(names))},
        'panels': placed(described.ROWS),
    }


def main():
    stale = []
    for described in BOARDS:
        path = HOME / f'dashboards/rollcall-{described.UID}.json'
        text = json.dumps(board(described), indent=1, ensure_ascii=False) + '\n'
        if not path.exists() or path.read_text() != text:
            stale.append(f'grafana/dashboards/{path.name}')
            if '--check' not in sys.argv[1:]:
                path.write_text(text)
                print(f'wrote {stale[-1]}')
    if '--check' in sys.argv[1:] and stale:
        sys.exit(f'not what the descriptions say: {", ".join(stale)}; run `python3 grafana/generate`')


if __name__ == '__main__':
    main()
