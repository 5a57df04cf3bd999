"""Python 3.8 or newer, standard library only: one key for all tries of one payment."""

import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request
import uuid


def pay(url, payment, tries=3, wait=0.5):
    key = str(uuid.uuid4())  # made once, before the first try
    for attempt in range(1, tries + 1):
        pause = wait * 2 ** (attempt - 1) * (0.5 + random.random())
        request = urllib.request.Request(
            url,
            data=json.dumps(payment).encode(),
            headers={"content-type": "application/json", "idempotency-key": key},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            # Come back where the server says when, or failed; anything else is the answer.
            after = error.headers.get("retry-after")
            if attempt == tries or (after is None and error.code < 500):
                raise
            pause = float(after) if after else pause
        except (OSError, ValueError, http.client.HTTPException):
            # No answer, or half of one: it may have been carried out, and the same key finds out.
            if attempt == tries:
                raise
        time.sleep(pause)


if __name__ == "__main__":
    print(json.dumps(pay(sys.argv[1], {"amount": 100})))
