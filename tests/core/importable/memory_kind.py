"""The source of a plugin that brings the storage kind "memory"; its storages are tuples."""

SOURCE = """
    from pydantic import BaseModel, ConfigDict, SecretStr
    from functionfuse.hookspecs import StorageKind, hookimpl

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        where: int
        password: SecretStr = SecretStr("")

    def build(options):
        return "built", options.where

    @hookimpl
    def functionfuse_storages():
        return [StorageKind("memory", Options, build, api_version=1)]
"""
