"""Sealed assets: one container for datasets, code bundles and models; docs/spec/container.md."""

from svetovid.assets.bundle import load_bundle, seal_bundle
from svetovid.assets.dataset import seal_dataset
from svetovid.assets.manifest import FieldSpec, Manifest, RecordSchema, check_successor
from svetovid.assets.reader import AssetReader, open_asset
from svetovid.assets.seal import Terms, load_manifest, manifest_url, seal_file, seal_stream

__all__ = [
    "AssetReader",
    "FieldSpec",
    "Manifest",
    "RecordSchema",
    "Terms",
    "check_successor",
    "load_bundle",
    "load_manifest",
    "manifest_url",
    "open_asset",
    "seal_bundle",
    "seal_dataset",
    "seal_file",
    "seal_stream",
]
