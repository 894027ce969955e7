"""The servers that scenarios run against: on gnet, gevent and asyncio; all answer as `lines` says."""
