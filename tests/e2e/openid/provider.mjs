// The independent OpenID provider behind TLS on loopback.
//
// Reads one JSON object from standard input: {issuer, port, key, cert, jwks, clients, audience, accessTokenTtl}
// (PEM texts; `clients` as RFC 7591 metadata), prints "listening", and ends with its standard input.
// Access tokens are opaque; one asked for the resource `audience` is too.
import { createServer } from "node:https";
import Provider from "oidc-provider";

const { settings, rest } = await firstLine(process.stdin);

const provider = new Provider(settings.issuer, {
  clients: settings.clients,
  jwks: settings.jwks,
  cookies: { keys: ["only for tests"] },
  pkce: { required: () => true },
  scopes: ["openid", "offline_access", ...settings.scopes],
  claims: { openid: ["sub"], profile: ["email", "roles"] },
  ttl: { AccessToken: settings.accessTokenTtl, ClientCredentials: settings.accessTokenTtl },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, roles: ["customer"] }),
  }),
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_context, client) => client.introspectionAllowed !== false },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => settings.audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: settings.scopes.join(" "),
        audience: settings.audience,
        accessTokenTTL: settings.accessTokenTtl,
        accessTokenFormat: "opaque",
      }),
    },
  },
});

createServer({ key: settings.key, cert: settings.cert }, provider.callback()).listen(
  settings.port,
  "127.0.0.1",
  () => console.log("listening"),
);
for await (const _ of rest); // until whoever started it is gone
process.exit(0);

async function firstLine(stream) {
  stream.setEncoding("utf8");
  const chunks = stream[Symbol.asyncIterator]();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await chunks.next();
    if (done) throw new Error("no settings on standard input");
    text += value;
  }
  return { settings: JSON.parse(text), rest: { [Symbol.asyncIterator]: () => chunks } };
}
