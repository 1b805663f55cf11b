"""Holds the boards to Grafana's own schema, of every version that they are for.

    python3 grafana/schema/check.py FOLDER    with the packages of package.json in FOLDER/node_modules

The schema comes as TypeScript. So each board is written as a constant of its type, and the compiler
says which field a version does not know and which value it does not take.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(__file__).resolve().parent
VERSIONS = [name for name in json.loads((HOME / 'package.json').read_text())['dependencies'] if name != 'typescript']
# The panels that have a schema, with its name there. A list of alerts has none.
KINDS = {
    'timeseries': 'timeseries', 'stat': 'stat', 'gauge': 'gauge', 'heatmap': 'heatmap', 'table': 'table',
    'state-timeline': 'statetimeline',
}
# What the data source reads of an annotation, and the schema so does not have.
OF_THE_SOURCE = ['expr', 'step', 'titleFormat', 'textFormat', 'tagKeys', 'useValueForTime']
# Grafana fills in what is left out, so everything may be.
PARTS = 'type Part<T> = T extends (infer U)[] ? Part<U>[] : T extends object ? { [K in keyof T]?: Part<T[K]> } : T;'


def declarations(package, pattern):
    """A module of the schema. JSON has words where it has enums, so these become unions of words."""
    found = [path for path in (package / 'dist').rglob('*.d.ts') if re.search(pattern, path.as_posix())]
    if not found:
        sys.exit(f'{package.name}: no module {pattern}')
    # Newer versions have each module twice, once by each way of bundling.
    text = min(found, key=lambda path: len(path.as_posix())).read_text()

    def union(enum):
        values = re.findall(r'=\s*("[^"]*"|-?\d+)', enum[2])
        return f'export type {enum[1]} = {" | ".join(values)};'

    text = re.sub(r'export declare enum (\w+) \{(.*?)\n\}', union, text, flags=re.S)
    return '// @ts-nocheck\n' + re.sub(r"from '(@grafana/schema|\.\./.*common.*)'", "from './common'", text)


def panels(board):
    """Every panel, those of collapsed rows too."""
    for panel in board['panels']:
        yield panel
        yield from panel.get('panels', [])


def constants(name, board):
    """A board and its panels as constants of their types, one a line."""
    annotations = [
        {field: value for field, value in annotation.items() if field not in OF_THE_SOURCE}
        for annotation in board['annotations']['list']
    ]
    whole = {**board, 'panels': [], 'annotations': {'list': annotations}}
    yield f'{name}', 'dashboard.Dashboard', whole
    for panel in panels(board):
        place = f'{name}: {panel["title"]}'
        kind = 'RowPanel' if panel['type'] == 'row' else 'Panel'
        yield place, f'dashboard.{kind}', {field: value for field, value in panel.items() if field != 'panels'}
        module = KINDS.get(panel['type'])
        if module:
            yield place, f'{module}.Options', panel['options']
            if 'custom' in panel['fieldConfig']['defaults']:
                yield place, f'{module}.FieldConfig', panel['fieldConfig']['defaults']['custom']


def wrong(folder, version):
    """What a version of Grafana has to say about the boards."""
    package = folder / 'node_modules' / version
    modules = {'common': r'common/common\.gen', 'dashboard': r'raw/dashboard/x/\w*types\.gen'}
    modules |= {kind: rf'raw/composable/{kind}/panelcfg/x/\w*types\.gen' for kind in KINDS.values()}
    with tempfile.TemporaryDirectory() as made:
        for name, pattern in modules.items():
            (Path(made) / f'{name}.ts').write_text(declarations(package, pattern))
        lines = [f"import * as {name} from './{name}';" for name in modules] + [PARTS]
        places = [''] * len(lines)
        for path in sorted((HOME.parent / 'dashboards').glob('*.json')):
            for place, kind, value in constants(path.stem, json.loads(path.read_text())):
                lines.append(f'export const it{len(lines)}: Part<{kind}> = {json.dumps(value)};')
                places.append(f'{place}: {kind}')
        (Path(made) / 'boards.ts').write_text('\n'.join(lines))
        compiler = folder / 'node_modules/typescript/bin/tsc'
        words = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es5', '--module', 'esnext', '--moduleResolution', 'bundler']
        said = subprocess.run(['node', compiler, *words, 'boards.ts'], cwd=made, text=True, capture_output=True)
    problems = re.findall(r'^boards\.ts\((\d+),\d+\): error (.*)$', said.stdout, flags=re.M)
    if said.returncode and not problems:
        sys.exit(f'{version}: {said.stdout}{said.stderr}')
    return [f'{version}: {places[int(line) - 1]}: {problem}' for line, problem in problems], len(lines)


def main():
    folder = Path(sys.argv[1]).resolve()
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda version: wrong(folder, version), VERSIONS))
    problems = [problem for some, _ in found for problem in some]
    if problems:
        sys.exit('\n'.join(problems))
    print(f'{len(VERSIONS)} versions take all of {found[0][1]} parts')


if __name__ == '__main__':
    main()
