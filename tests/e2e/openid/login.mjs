// A web app (npm openid-client) and the person who uses it: authorization code with PKCE.
//
// Reads {issuer, clientId, clientSecret, redirectUri, scope, user, machine} as JSON from standard input and prints
// the token response. With `machine` the client asks for itself (client credentials).
// The provider's authority comes by NODE_EXTRA_CA_CERTS.
import * as client from "openid-client";

const asked = JSON.parse(await text(process.stdin));
const found = await client.discovery(
  new URL(asked.issuer),
  asked.clientId,
  undefined,
  client.ClientSecretBasic(asked.clientSecret),
);
const tokens = asked.machine
  ? await client.clientCredentialsGrant(found, { scope: asked.scope })
  : await authorizationCode();
console.log(JSON.stringify(tokens));

async function authorizationCode() {
  const verifier = client.randomPKCECodeVerifier();
  const state = client.randomState();
  const start = client.buildAuthorizationUrl(found, {
    redirect_uri: asked.redirectUri,
    scope: asked.scope,
    state,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  });
  const back = await browse(start);
  return client.authorizationCodeGrant(found, back, { pkceCodeVerifier: verifier, expectedState: state });
}

/** What a browser and a person do: follow redirects, keep cookies, log in, consent; until the app's own address. */
async function browse(start) {
  const cookies = new Map();
  let [url, form] = [start, undefined];
  for (let step = 0; step < 20; step += 1) {
    if (url.href.startsWith(asked.redirectUri)) return url;
    const answer = await fetch(url, {
      method: form ? "POST" : "GET",
      body: form,
      redirect: "manual",
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") },
    });
    for (const one of answer.headers.getSetCookie()) {
      const [name, value] = one.split(";", 1)[0].split(/=(.*)/s);
      cookies.set(name, value);
    }
    form = undefined;
    if (answer.status >= 300 && answer.status < 400) {
      url = new URL(answer.headers.get("location"), url);
      continue;
    }
    const page = await answer.text();
    const action = page.match(/action="([^"]+)"/)?.[1];
    const prompt = page.match(/name="prompt" value="([^"]+)"/)?.[1];
    if (!action || !prompt) throw new Error(`no form at ${url.pathname}: ${answer.status} ${page.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").slice(-300)}`);
    url = new URL(action, url);
    form = new URLSearchParams({ prompt, login: asked.user, password: "unused" });
  }
  throw new Error("the login does not end");
}

async function text(stream) {
  let all = "";
  for await (const chunk of stream.setEncoding("utf8")) all += chunk;
  return all;
}
