"""Which package of the distribution is missing, as compilers, linkers and libraries complain about it.

The names are ones that Debian 12 and 13 install.
"""

from __future__ import annotations

import re

_COMPILER = r"(?:[\w-]*gcc|cc|[\w-]*g\+\+|c\+\+|clang)"
# What a build says when it lacks something, what that is, and the packages that have it.
_BUILD: tuple[tuple[str, str, str], ...] = (
    (
        rf"No such file or directory: '{_COMPILER}'|'{_COMPILER}' failed: No such file|"
        rf"\b{_COMPILER}: (?:command )?not found|No CMAKE_\w+_COMPILER could be found|Unknown compiler\(s\)",
        "a compiler",
        "build-essential, python3-dev",
    ),
    (r"\bPython\.h: No such file", "Python.h", "python3-dev"),
    (r"pg_config[^\n]*not found|Error: pg_config", "pg_config", "libpq-dev"),
    (r"\blibpq-fe\.h: No such file", "libpq-fe.h", "libpq-dev"),
    (
        r"mysql_config[^\n]*not found|Can not find valid pkg-config name|\bmysql\.h: No such",
        "mysql_config",
        "libmariadb-dev, pkg-config",
    ),
    (r"\bffi\.h: No such file", "ffi.h", "libffi-dev"),
    (r"\bopenssl/\w+\.h: No such file", "OpenSSL's headers", "libssl-dev"),
    (r"libxml2 and libxslt development|\blibxml/\w+\.h: No such", "libxml2", "libxml2-dev, libxslt1-dev"),
    (r"\b(?:lber|ldap)\.h: No such file", "ldap.h", "libldap-dev, libsasl2-dev"),
    (r"\bsql\.h: No such file", "sql.h", "unixodbc-dev"),
    (r"headers or library files could not be found for jpeg", "libjpeg", "libjpeg-dev, zlib1g-dev"),
    (r"can't find Rust compiler|\b(?i:cargo|rustc)\b[^\n]*not (?:found|installed)", "Rust", "cargo"),
    (r"\bcmake\b[^\n]*not found|CMake must be installed", "cmake", "cmake, build-essential"),
    (r"Git executable not found|No such file or directory: 'git'", "git", "git"),
)
# What the next try would ask for, so that it is told at once.
_COMPILED = {"psycopg2": "libpq-dev", "mysqlclient": "libmariadb-dev, pkg-config"}
_LIBRARIES = {
    "libGL": "libgl1",
    "libglib-2.0": "libglib2.0-0",
    "libgobject-2.0": "libglib2.0-0",
    "libgthread-2.0": "libglib2.0-0",
    "libmagic": "libmagic1",
    "libpq": "libpq5",
    "libmariadb": "libmariadb3",
    "libcairo": "libcairo2",
    "libpango-1.0": "libpango-1.0-0",
    "libpangoft2-1.0": "libpangoft2-1.0-0",
    "libgomp": "libgomp1",
    "libsndfile": "libsndfile1",
    "libzbar": "libzbar0",
    "libodbc": "unixodbc",
    "libxml2": "libxml2",
    "libxslt": "libxslt1.1",
}
# What an interpreter that was built elsewhere links to. Another number is another library: no package has it.
_VERSIONED = {
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libsqlite3.so.0": "libsqlite3-0",
    "libffi.so.8": "libffi8",
    "libz.so.1": "zlib1g",
    "liblzma.so.5": "liblzma5",
    "libbz2.so.1.0": "libbz2-1.0",
    "libexpat.so.1": "libexpat1",
    "libreadline.so.8": "libreadline8",
    "libncursesw.so.6": "libncursesw6",
    "libtinfo.so.6": "libtinfo6",
    "libuuid.so.1": "libuuid1",
    "libmpdec.so.3": "libmpdec3",
    "libgdbm.so.6": "libgdbm6",
    "libdb-5.3.so": "libdb5.3",
}
_LOADED = re.compile(
    r"\b(lib[\w.+-]+?)\.so[\d.]*: cannot open shared object|"
    r"cannot load library '(?:lib)?([\w.+-]+?)(?:\.so[\d.]*)?'"
)


def to_build(text: str) -> str:
    """What a build that failed lacks and how it gets it; empty where its output does not say."""
    for pattern, what, packages in _BUILD:
        if re.search(pattern, text):
            more = [other for name, other in _COMPILED.items() if re.search(rf"\b{name}==", text)]
            names = ", ".join(dict.fromkeys([packages, *more]))
            return f"{what} is missing on the server: add system_packages: [{names}] to the app"
    return ""


def to_load(text: str) -> str:
    """The same for a shared library that an import did not find."""
    exact = re.search(r"\b(lib[\w.+-]+?\.so[\d.]*): cannot open shared object", text)
    if exact and exact[1] in _VERSIONED:
        return f"the library {exact[1]} is missing on the server: {_add(_VERSIONED[exact[1]])}"
    if re.search(r"failed to find libmagic", text):
        library = "libmagic"
    elif found := _LOADED.search(text):
        library = found[1] or f"lib{found[2]}"
    else:
        return ""
    # WeasyPrint asks for libgobject-2.0-0 first.
    package = _LIBRARIES.get(library) or _LIBRARIES.get(library.removesuffix("-0"))
    how = _add(package or "")
    if not package:
        file = exact[1] if exact else f"{library}.so"
        how = f"name the package that has it under system_packages (apt-file search {file} finds it)"
    return f"the library {library} is missing on the server: {how}"


def _add(package: str) -> str:
    return f"add system_packages: [{package}] to the app"
