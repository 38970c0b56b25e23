"""The jars of a real Apache Kafka, and single ones beside them, fetched once with Maven."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

KAFKA_VERSION = "4.3.0"
SLF4J_VERSION = "1.7.36"  # what Kafka's own slf4j-api asks for
CACHE = Path(__file__).parent.parent / ".cache" / "kafka"
FETCH_DEADLINE_S = 600
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>worker.tests</groupId>
  <artifactId>jars</artifactId>
  <version>1</version>
  <dependencies>
{}
  </dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
BROKER = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", f"org.slf4j:slf4j-simple:{SLF4J_VERSION}")


def missing() -> str | None:
    """Why no Kafka can be started here, in one line; None where it can. Only "not installed" counts."""
    if shutil.which("java") is None:
        return "real Kafka needs Java 17 or newer, and there is no java"
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < 17:
        return f"real Kafka needs Java 17 or newer, java here is {found[1] if found else 'unknown'}"
    if not folder().is_dir() and shutil.which("mvn") is None:
        return "real Kafka is fetched with Maven, and there is no mvn"
    return None


def folder() -> Path:
    """Where this version's jars are, or will be."""
    return CACHE / f"{KAFKA_VERSION}-slf4j-{SLF4J_VERSION}"


def fetched() -> Path:
    """The folder of the jars; downloads about 45 MB the first time.

    Raises:
        RuntimeError: Maven failed; carries the end of its output.
    """
    return _fetched(folder(), BROKER)


def single(coordinates: str) -> Path:
    """The folder of one more jar, group:artifact:version, without what it depends on.

    Raises:
        RuntimeError: Maven failed; carries the end of its output.
    """
    return _fetched(CACHE / coordinates.partition(":")[2].replace(":", "-"), (coordinates,), "-DexcludeTransitive=true")


def _fetched(jars: Path, coordinates: Sequence[str], *options: str) -> Path:
    if jars.is_dir():
        return jars
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        pom, target = Path(scratch, "pom.xml"), Path(scratch, "jars")
        wanted = "\n".join(DEPENDENCY.format(*each.split(":")) for each in coordinates)
        pom.write_text(POM.format(wanted), encoding="utf-8")
        maven = subprocess.run(
            [
                "mvn",
                "--batch-mode",
                "--file",
                str(pom),
                "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
                f"-DoutputDirectory={target}",
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_DEADLINE_S,
            check=False,
        )
        if maven.returncode != 0:
            raise RuntimeError("Maven could not fetch jars:\n" + "\n".join(maven.stdout.splitlines()[-20:]))
        try:
            target.rename(jars)  # at once: an interrupted download leaves nothing that looks complete
        except OSError:
            if not jars.is_dir():  # else another process was faster
                raise
    return jars
