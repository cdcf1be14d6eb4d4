"""The HTTP session in which Layer 4 is asked."""

import aiohttp
from aiohttp import hdrs


def open_session() -> aiohttp.ClientSession:
    """A session that goes nowhere else than where it is sent: another address may be without TLS."""
    return aiohttp.ClientSession(middlewares=[_refuse_redirects])


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    response = await handler(request)
    if 300 <= response.status < 400 and hdrs.LOCATION in response.headers:
        response.close()
        raise aiohttp.ClientError("it redirects to another address, which is not followed; correct the URL")
    return response
