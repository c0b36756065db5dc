"""The same with asyncio: the same names, with await."""

import asyncio
import tempfile

import zfabric.aio


async def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        async with zfabric.aio.connect(f"zf+file:{directory}/data") as fabric:
            await fabric.topics.create("orders")
            async with fabric.producer() as producer, fabric.consumer("orders") as consumer:
                deliveries = [await producer.send("orders", b"%d" % number) for number in range(100)]
                await asyncio.gather(*(delivery.result() for delivery in deliveries))
                seen = 0
                async for record in consumer:
                    seen += 1
                    if record.value == b"99":
                        break
                print(f"read {seen} records")
                assert seen == 100


if __name__ == "__main__":
    asyncio.run(main())
