"""What every place for staged objects must do. An adapter joins by adding its factory to `ADAPTERS`."""

import itertools
import os
import tempfile
import threading
import time

import pytest

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.errors import ObjectMissing, StagingError
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.keys import staged_key
from relaypacs.staging.protocol import StagedFacts
from relaypacs.staging.s3 import S3Staging
from tests.peers.seaweed import KEYS, SeaweedFS

serial = itertools.count()

ADAPTERS = ("filesystem", "s3", "s3-versioned")
HOSTILE = [
    "", "/", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.hidden", ".a", "a\\b", "a\0b",
    "a\nb", "a b", "a/%2e%2e/b", "ä", "a" * 200, "/".join("abcdefghijk"), "a/..", "~root/x", "a:b", "a\n",
]  # fmt: skip


def key_of(number=1, *, study="1.2.3", date="20260114"):
    return staged_key(b"k", study_uid=study, sop_instance_uid=f"1.2.3.{number}", digest=f"{number:064x}", date=date)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory):
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(params=ADAPTERS)
def staging(request, tmp_path):
    if request.param == "filesystem":
        return FilesystemStaging(tmp_path / "staging")
    server = request.getfixturevalue("seaweed")
    bucket = server.bucket(f"relay-{next(serial)}", versioned=request.param == "s3-versioned")
    options = Staging(kind="s3", bucket=bucket, endpoint=server.endpoint, prefix="a/b", part_bytes=5 << 20)
    keys = StorageKeys(*KEYS)
    return S3Staging(options, lambda: keys, scratch=tmp_path)


@pytest.fixture
def source():
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(256)) * 4096)
        file.flush()
        yield file.fileno()


def content(staging, key):
    with staging.open(key) as view:
        assert view.readonly
        return bytes(view)


def test_an_object_comes_back_byte_for_byte(staging, source):
    staging.put(key_of(), source, 1000, 500_000)
    staging.sync()
    assert content(staging, key_of()) == (bytes(range(256)) * 4096)[1000:501_000]


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097])
def test_small_and_empty_objects(staging, source, length):
    staging.put(key_of(), source, 1, length)
    assert content(staging, key_of()) == (bytes(range(256)) * 4096)[1 : 1 + length]


def test_a_source_in_memory_is_copied_too(staging):
    fd = os.memfd_create("segment")
    os.write(fd, b"x" * 100 + b"DICM" * 1_000_000)
    staging.put(key_of(), fd, 100, 4_000_000)
    os.close(fd)
    assert content(staging, key_of()) == b"DICM" * 1_000_000


def test_a_long_object_comes_back_byte_for_byte(staging):
    with tempfile.TemporaryFile() as file:
        whole = os.urandom(1 << 20) * 12 + b"end"
        file.write(whole)
        file.flush()
        for _ in range(2):
            staging.put(key_of(), file.fileno(), 1, len(whole) - 1, FACTS)
        staging.sync()
    assert content(staging, key_of()) == whole[1:]
    assert list(staging.scan()) == [(key_of(), len(whole) - 1)]
    assert staging.describe(key_of(), 7).head == whole[1:8]


def test_the_position_of_the_source_is_left_alone(staging, source):
    os.lseek(source, 77, os.SEEK_SET)
    staging.put(key_of(), source, 0, 10)
    assert os.lseek(source, 0, os.SEEK_CUR) == 77


def test_the_same_key_again_is_fine_also_while_it_is_read(staging, source):
    staging.put(key_of(), source, 0, 5000)
    with staging.open(key_of()) as view:
        staging.put(key_of(), source, 0, 5000)
        staging.sync()
        assert bytes(view) == (bytes(range(256)) * 4096)[:5000]
    assert list(staging.scan()) == [(key_of(), 5000)]


def test_an_object_that_is_deleted_while_it_is_read_stays_whole(staging, source):
    staging.put(key_of(), source, 0, 5000)
    with staging.open(key_of()) as view:
        staging.delete(key_of())
        assert bytes(view) == (bytes(range(256)) * 4096)[:5000]


def test_a_source_that_ends_early_leaves_nothing(staging, source):
    with pytest.raises(StagingError):
        staging.put(key_of(), source, 1 << 20, 1)
    with pytest.raises(StagingError):
        staging.put(key_of(), source, (1 << 20) - 10, 11)
    with pytest.raises(ObjectMissing):
        staging.open(key_of()).__enter__()
    assert list(staging.scan()) == []


def test_a_source_that_is_closed_leaves_nothing(staging, source):
    fd = os.dup(source)
    os.close(fd)
    with pytest.raises(StagingError):
        staging.put(key_of(), fd, 0, 10)
    assert list(staging.scan()) == []


FACTS = StagedFacts("ab" * 32, "a-1", "MR\u00c4 1", "RELAY", "10.0.0.7:1", 1790000000.5)


FACTS_OF_ASSOCIATION = (FACTS.association_id, FACTS.calling_ae, FACTS.called_ae, FACTS.peer)


@pytest.mark.parametrize("head_bytes", [0, 100, 5000, 6000])
def test_an_object_describes_itself_without_being_read_whole(staging, source, head_bytes):
    before = time.time()
    staging.put(key_of(), source, 10, 5000, FACTS)
    staging.sync()
    described = staging.describe(key_of(), head_bytes)
    assert described.head == (bytes(range(256)) * 4096)[10:5010][:head_bytes]
    assert described.length == 5000
    assert before - 10 < described.stored_at < time.time() + 10
    found = described.facts
    if found is None:  # a file system without attributes
        return
    assert (found.association_id, found.calling_ae, found.called_ae, found.peer) == FACTS_OF_ASSOCIATION
    assert found.digest in (FACTS.digest, "")
    assert found.received_at in (FACTS.received_at, described.stored_at)


def test_an_object_put_without_facts_has_none(staging, source):
    staging.put(key_of(), source, 10, 5000)
    assert staging.describe(key_of(), 10).facts is None


def test_what_is_not_there(staging):
    with pytest.raises(ObjectMissing):
        staging.describe(key_of(), 100)
    with pytest.raises(ObjectMissing), staging.open(key_of()):
        pass
    staging.delete(key_of())
    assert list(staging.scan()) == []


def test_deleting_takes_only_its_own_object_and_is_idempotent(staging, source):
    for number in (1, 2):
        staging.put(key_of(number), source, 0, 10)
    staging.delete(key_of(1))
    staging.delete(key_of(1))
    assert list(staging.scan()) == [(key_of(2), 10)]
    staging.delete(key_of(2))
    assert list(staging.scan()) == []
    staging.put(key_of(1), source, 0, 10)
    assert list(staging.scan()) == [(key_of(1), 10)]


def test_scan_gives_every_object_once_in_order(staging, source):
    keys = [key_of(n, study=f"1.{n % 3}", date=f"2026011{n % 4}") for n in range(1, 30)]
    for number, key in enumerate(keys):
        staging.put(key, source, 0, number)
    assert list(staging.scan()) == sorted((key, number) for number, key in enumerate(keys))


def test_a_hostile_key_is_refused_by_every_method(staging, source):
    for key in HOSTILE:
        with pytest.raises(StagingError):
            staging.put(key, source, 0, 10)
        with pytest.raises(StagingError):
            staging.open(key).__enter__()
        with pytest.raises(StagingError):
            staging.describe(key, 10)
        with pytest.raises(StagingError):
            staging.delete(key)
    assert list(staging.scan()) == []


def test_free_bytes_is_a_number_of_bytes(staging):
    assert staging.free_bytes() > 1 << 20


def test_an_error_inside_the_context_is_the_readers_own(staging, source):
    staging.put(key_of(), source, 0, 10)
    with pytest.raises(KeyError), staging.open(key_of()):
        raise KeyError


def test_threads_putting_and_deleting_in_one_folder_do_not_disturb_each_other(staging, source):
    troubles = []

    def work(first):
        try:
            for number in range(first, first + 40):
                staging.put(key_of(number), source, 0, 100)
                if number % 10 == 0:
                    staging.sync()
                assert len(content(staging, key_of(number))) == 100
                staging.delete(key_of(number))
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(1000 * (1 + n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert list(staging.scan()) == []
