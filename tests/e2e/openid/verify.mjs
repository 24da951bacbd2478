// Verifies a token with npm jose: {jwksUri, token, issuer, audience, typ, algorithms} in, claims out.
// Exit code 1 with jose's error code if it does not hold. The authority comes by NODE_EXTRA_CA_CERTS.
import { createRemoteJWKSet, jwtVerify } from "jose";

let all = "";
for await (const chunk of process.stdin.setEncoding("utf8")) all += chunk;
const { jwksUri, token, ...wanted } = JSON.parse(all);
try {
  const { payload, protectedHeader } = await jwtVerify(token, createRemoteJWKSet(new URL(jwksUri)), wanted);
  console.log(JSON.stringify({ payload, header: protectedHeader }));
} catch (error) {
  console.log(JSON.stringify({ refused: error.code }));
  process.exit(1);
}
