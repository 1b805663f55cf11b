//! Wheels made for a test, in a folder of their own.

use std::path::Path;
use std::process::Command;

/// Makes a wheel of a package with one module, and beside it whatever else a test puts in.
const MAKE: &str = r"
import sys, zipfile
folder, project, version, megabytes, needs = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:]
name = project.replace('-', '_')
about = f'{name}-{version}.dist-info'
required = ''.join(f'Requires-Dist: {need}\n' for need in needs)
files = {
    f'{name}/__init__.py': f'VERSION = {version!r}\n',
    f'{about}/METADATA': f'Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{required}',
    f'{about}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
}
files[f'{about}/RECORD'] = ''.join(f'{path},,\n' for path in files) + f'{about}/RECORD,,\n'
with zipfile.ZipFile(f'{folder}/{name}-{version}-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
    for part in range(megabytes):
        wheel.writestr(f'{name}/large{part}', bytes(1 << 20))
";

pub(crate) fn make(folder: &Path, name: &str, version: &str, megabytes: u32) {
    make_needing(folder, name, version, megabytes, &[]);
}

pub(crate) fn make_needing(folder: &Path, name: &str, version: &str, megabytes: u32, needs: &[&str]) {
    let made = Command::new("/usr/bin/python3")
        .args(["-I", "-c", MAKE, &folder.display().to_string(), name, version, &megabytes.to_string()])
        .args(needs)
        .status()
        .expect("python3 starts");
    assert!(made.success());
}
