"""What boards are made of: panels, rows and variables, with what all of them have in common.

In queries `@` stands for the selector of the servers chosen, `@c` for that and the capability, `@p` the
pool, `@w` pool and worker; `[~]` is the window of a rate, `[range]` the time shown.
"""

import re

from limits import limit

SOURCE = {'type': 'prometheus', 'uid': '${datasource}'}
BASE = 'job=~"$job", instance=~"$instance"'
SELECTORS = {
    'c': f'{BASE}, capability=~"$capability"',
    'p': f'{BASE}, pool=~"$pool"',
    'w': f'{BASE}, pool=~"$pool", worker=~"$worker"',
    '': BASE,
}

# Okabe and Ito (2008): they stay apart for people who see colours differently. Words that mean the
# same have the same colour on every board.
BLUE, SKY, GREEN, ORANGE = '#0072B2', '#56B4E9', '#009E73', '#E69F00'
VERMILION, PURPLE, YELLOW, GREY = '#D55E00', '#CC79A7', '#F0E442', '#999999'
COLOURS = {
    'succeeded': GREEN, 'failed': VERMILION, 'timed_out': ORANGE, 'lost': PURPLE, 'cancelled': GREY,
    'expired': YELLOW, 'queued': SKY, 'delayed': YELLOW, 'assigned': GREEN, 'running': BLUE,
    'cancelling': GREY, 'ready': GREEN, 'connecting': SKY, 'suspect': ORANGE, 'ejected': VERMILION,
    'cordoned': GREY, 'draining': BLUE, 'disconnected': PURPLE, 'used': BLUE, 'free': SKY,
    'unavailable': GREY, 'on_time': GREEN, 'late': ORANGE, 'missed': VERMILION, 'ok': GREEN,
    'error': VERMILION, 'p50': SKY, 'p95': BLUE, 'p99': VERMILION, 'desired': VERMILION, 'actual': BLUE,
    'minimum': SKY, 'maximum': GREY, 'submitted': SKY, 'started': BLUE, 'completed': GREEN,
}
# The words that a label may have, for the series of legends that show it.
OUTCOMES = ['succeeded', 'failed', 'timed_out', 'lost', 'cancelled', 'expired']
STATES = ['ready', 'connecting', 'suspect', 'ejected', 'cordoned', 'draining', 'disconnected']
WORDS = {
    'rollcall_tasks_completed_total': OUTCOMES,
    'rollcall_task_attempts_total': OUTCOMES,
    'rollcall_queue_tasks': ['queued', 'delayed', 'assigned', 'running', 'cancelling'],
    'rollcall_workers': STATES,
    'rollcall_worker_slots': ['used', 'free', 'unavailable'],
    'rollcall_worker_heartbeats_total': ['on_time', 'late', 'missed'],
    'rollcall_worker_attempts_total': ['ok', 'error'],
    'rollcall_autoscaler_hook_calls_total': ['ok', 'error'],
}
DASHES = {'p50': [2, 6], 'p95': [10, 6], 'minimum': [2, 6], 'maximum': [2, 6], 'desired': [10, 6]}
# Where a name on a board leads to.
LINKS = {'worker': ('worker', 'Worker'), 'pool': ('pool', 'Pool'), 'capability': ('tasks', 'Tasks')}


def query(text):
    """A query with its shorthand written out."""
    text = re.sub(r'@([cpw]?)(?![a-z])', lambda found: SELECTORS[found[1]], text)
    return text.replace('[~]', '[$__rate_interval]').replace('[range]', '[$__range]')


def metrics_of(targets):
    """The families that some queries ask for, in order."""
    found = []
    for text, _ in targets:
        for name in re.findall(r'\b((?:rollcall|process|scrape|prometheus|job|job_pool)[_:][a-z0-9_:]*|ALERTS|up)\b(?=\{)', text):
            family = re.sub(r'_(bucket|count|sum)$', '', name) if 'job' not in name.split(':')[0] else name
            if family not in found:
                found.append(family)
    return found


def link(label, value):
    """A link to the board of what a label names, for the same time and servers."""
    board, title = LINKS[label]
    kept = ''.join(f'&${{{name}:queryparam}}' for name in ['datasource', 'job', 'instance'])
    pool = '&var-pool=' + value.replace('worker', 'pool') if label == 'worker' else ''
    return {
        'title': f'{title}: {value}',
        'url': f'/d/rollcall-{board}?var-{label}={value}{pool}{kept}&${{__url_time_range}}',
    }


def links_of(targets):
    for label in LINKS:
        grouped = re.compile(r'by \([^)]*\b' + label + r'\b')
        if any(grouped.search(text) or '{{' + label + '}}' in legend for text, legend in targets):
            return [link(label, f'${{__field.labels.{label}}}')]
    return []


def steps(limits, below=False):
    """Colours by value. `below`: what is under the limit is bad."""
    colours = [ORANGE, VERMILION] if len(limits) > 1 else [VERMILION]
    if below:
        levels = [{'color': VERMILION, 'value': None}]
        good = [ORANGE, BLUE] if len(limits) > 1 else [BLUE]
        levels += [{'color': colour, 'value': value} for value, colour in zip(sorted(limits), good)]
        return levels
    levels = [{'color': BLUE, 'value': None}]
    padded = [ORANGE] * (len(limits) - len(colours)) + colours
    return levels + [{'color': colour, 'value': value} for value, colour in zip(sorted(limits), padded)]


def colour_overrides(targets):
    """A fixed colour, and for quantiles and targets a dash of its own, for each word in a legend."""
    first = [legend.split(' ')[0] for _, legend in targets]
    shown = [word for word in first if word in COLOURS]
    if any(word in ['{{outcome}}', '{{state}}'] for word in first):
        shown += [word for family in metrics_of([(query(text), '') for text, _ in targets]) for word in WORDS.get(family, [])]
    result = []
    for word in dict.fromkeys(shown):
        properties = [{'id': 'color', 'value': {'mode': 'fixed', 'fixedColor': COLOURS[word]}}]
        if word in DASHES and word in first:
            properties.append({'id': 'custom.lineStyle', 'value': {'fill': 'dash', 'dash': DASHES[word]}})
        result.append({'matcher': {'id': 'byRegexp', 'options': f'/^{word}( |$)/'}, 'properties': properties})
    return result


def words(mapping):
    """Values as words: (from, to, text, colour); none of them is told by its colour alone."""
    return [
        {'type': 'range', 'options': {'from': low, 'to': high, 'result': {'text': text, 'color': colour, 'index': at}}}
        for at, (low, high, text, colour) in enumerate(mapping)
    ]


UP = [(0, 0, '✖ DOWN', VERMILION), (1, 1, '✔ UP', BLUE)]
SHARE = [(0, 0.2999, '✖ DOWN', VERMILION), (0.3, 0.6999, '▲ DEGRADED', ORANGE), (0.7, 1, '✔ OK', BLUE)]


def panel(kind, title, unit, text, *targets, w=8, h=8, limits=(), below=False, maps=(), **more):
    """Any panel; `targets` are pairs of a query and a legend."""
    targets = [(query(expr), legend) for expr, legend in targets]
    names = metrics_of(targets)
    said = f'{text} {"Metric" if len(names) == 1 else "Metrics"}: {", ".join(names)}.'
    defaults = {
        'unit': unit, 'min': 0, 'noValue': 'none yet', 'mappings': words(maps),
        'color': {'mode': 'thresholds'},
        'thresholds': {'mode': 'absolute', 'steps': steps(limits, below)},
    }
    if links_of(targets):
        defaults['links'] = links_of(targets)
    return {
        'type': kind, 'title': title, 'description': said, 'datasource': SOURCE,
        'gridPos': {'h': h, 'w': w},
        'fieldConfig': {'defaults': defaults, 'overrides': []},
        'options': {},
        'targets': [
            {
                'datasource': SOURCE, 'editorMode': 'code', 'expr': expr, 'legendFormat': legend,
                'format': 'time_series', 'range': True, 'refId': chr(ord('A') + at),
            }
            for at, (expr, legend) in enumerate(targets)
        ],
        **more,
    }


def stat(title, unit, text, *targets, w=4, h=4, text_mode='auto', **more):
    made = panel('stat', title, unit, text, *targets, w=w, h=h, **more)
    made['options'] = {
        'colorMode': 'value', 'graphMode': 'area', 'justifyMode': 'auto', 'orientation': 'auto',
        'textMode': text_mode, 'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False},
    }
    return made


def gauge(title, unit, text, *targets, w=4, h=4, **more):
    made = panel('gauge', title, unit, text, *targets, w=w, h=h, **more)
    made['fieldConfig']['defaults']['max'] = 1
    made['options'] = {
        'orientation': 'auto', 'showThresholdLabels': False, 'showThresholdMarkers': True,
        'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False},
    }
    return made


def graph(title, unit, text, *targets, stacked=False, limits=(), **more):
    made = panel('timeseries', title, unit, text, *targets, limits=limits, **more)
    defaults = made['fieldConfig']['defaults']
    defaults['color'] = {'mode': 'palette-classic-by-name'}
    defaults['custom'] = {
        'drawStyle': 'line', 'lineInterpolation': 'linear', 'lineWidth': 2, 'showPoints': 'never',
        'fillOpacity': 30 if stacked else 8, 'axisPlacement': 'auto', 'spanNulls': False,
        'stacking': {'group': 'A', 'mode': 'normal' if stacked else 'none'},
        'thresholdsStyle': {'mode': 'dashed' if limits else 'off'},
    }
    made['fieldConfig']['overrides'] = colour_overrides(targets)
    made['options'] = {
        'legend': {'calcs': ['mean', 'max', 'lastNotNull'], 'displayMode': 'table', 'placement': 'right', 'showLegend': True},
        'tooltip': {'mode': 'multi', 'sort': 'desc'},
    }
    return made


def by(label, metric, per=''):
    """A metric summed by a label, as it is or as the `rate` or `increase` of it, and its legend."""
    value = f'{per}({metric}[~])' if per else metric
    return f'sum by (instance, {label}) ({value})', f'{{{{{label}}}}} {{{{instance}}}}'


def top(label, metric, per=''):
    """The same where there may be many: the eight largest."""
    query, legend = by(label, metric, per)
    return f'topk(8, {query})', legend


def share(metric, part, whole, label):
    """The share of a metric that bears `part`, of that which bears `whole`, by a label."""
    total = metric.replace('}', f', {whole}}}') if whole else metric
    return f'sum by (instance, {label}) ({metric.replace("}", f", {part}}}")}) / sum by (instance, {label}) ({total})'


AVAILABLE = share('rollcall_workers{@p}', 'state="ready"', '', 'pool')
UTILISATION = share('rollcall_worker_slots{@p}', 'state="used"', 'state=~"used|free"', 'pool')


def quantiles(metric, selector, by=''):
    """The median, p95 and p99 of a histogram."""
    group = f'instance, {by + ", " if by else ""}le'
    return [
        (f'histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{selector}}}[~])))', f'{name} {{{{instance}}}}')
        for q, name in [(0.5, 'p50'), (0.95, 'p95'), (0.99, 'p99')]
    ]


def heatmap(title, axis, text, expr, **more):
    """How many observations were how large: the colour's unit is a count, the axis has `axis`."""
    made = panel('heatmap', title, 'short', text, (expr, '{{le}}'), **more)
    made['fieldConfig']['defaults'] = {'unit': 'short', 'min': 0, 'custom': {'scaleDistribution': {'type': 'linear'}}}
    made['options'] = {
        'calculate': False, 'cellGap': 1, 'exemplars': {'color': PURPLE}, 'filterValues': {'le': 1e-09},
        'color': {
            'mode': 'scheme', 'scheme': 'Viridis', 'steps': 64, 'exponent': 0.5, 'scale': 'exponential',
            'fill': BLUE, 'reverse': False,
        },
        'legend': {'show': True}, 'rowsFrame': {'layout': 'auto'},
        'tooltip': {'mode': 'single', 'yHistogram': True},
        'yAxis': {'axisPlacement': 'left', 'reverse': False, 'unit': axis},
    }
    made['targets'][0]['format'] = 'heatmap'
    return made


def timeline(title, text, *targets, maps, **more):
    made = panel('state-timeline', title, 'short', text, *targets, maps=maps, **more)
    made['fieldConfig']['defaults']['custom'] = {'fillOpacity': 70, 'lineWidth': 0}
    made['options'] = {
        'alignValue': 'left', 'mergeValues': True, 'rowHeight': 0.9, 'showValue': 'auto',
        'legend': {'displayMode': 'list', 'placement': 'bottom', 'showLegend': True},
        'tooltip': {'mode': 'single', 'sort': 'none'},
    }
    return made


def table(title, text, key, columns, w=24, h=8, hidden=(), links=None):
    """One row for each `key`; `columns` are (name, query, unit, words)."""
    targets = [(expr, name) for name, expr, _, _ in columns]
    made = panel('table', title, 'short', text, *targets, w=w, h=h)
    made['fieldConfig']['defaults'].pop('links', None)
    made['fieldConfig']['defaults']['custom'] = {'align': 'auto', 'filterable': True}
    letters = [target['refId'] for target in made['targets']]
    for target in made['targets']:
        target.update({'format': 'table', 'instant': True, 'range': False})
    rename = {f'Value #{letter}': name for letter, (name, _, _, _) in zip(letters, columns)}
    if len(columns) == 1:
        rename = {'Value': columns[0][0]}
    made['transformations'] = [
        {'id': 'merge', 'options': {}},
        {
            'id': 'organize',
            'options': {
                'excludeByName': {name: True for name in ['Time', 'job', 'endpoint', '__name__', *hidden]},
                'indexByName': {key: 0, **{name: at + 1 for at, name in enumerate(rename)}},
                'renameByName': rename,
            },
        },
    ]
    overrides = []
    for name, _, unit, maps in columns:
        properties = [{'id': 'unit', 'value': unit}]
        if maps:
            properties += [
                {'id': 'mappings', 'value': words(maps)},
                {'id': 'custom.cellOptions', 'value': {'type': 'color-text'}},
            ]
        overrides.append({'matcher': {'id': 'byName', 'options': name}, 'properties': properties})
    if key in LINKS:
        links = [link(key, f'${{__data.fields.{key}}}')]
    if links:
        overrides.append({'matcher': {'id': 'byName', 'options': key}, 'properties': [{'id': 'links', 'value': links}]})
    made['fieldConfig']['overrides'] = overrides
    made['options'] = {'showHeader': True, 'cellHeight': 'sm'}
    return made


def alert_list(title, text, w, h):
    """What Grafana knows of our alerts, without a query of its own."""
    return {
        'type': 'alertlist', 'title': title, 'description': text, 'datasource': SOURCE,
        'gridPos': {'h': h, 'w': w}, 'fieldConfig': {'defaults': {}, 'overrides': []},
        'options': {
            'viewMode': 'list', 'groupMode': 'default', 'groupBy': [], 'maxItems': 20, 'sortOrder': 3,
            'dashboardAlerts': False, 'alertName': 'Rollcall', 'alertInstanceLabelFilter': '',
            'stateFilter': {'firing': True, 'pending': False, 'noData': False, 'normal': False, 'error': True},
        },
    }


def row(title, *panels, closed=False):
    return {'title': title, 'panels': list(panels), 'closed': closed}


__all__ = [name for name in dir() if not name.startswith('_')]
