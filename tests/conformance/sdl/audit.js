// Runs the audits of graphql-http against the server at CORDON_URL with the token in CORDON_TOKEN, and prints the results as JSON.
import { auditServer } from 'graphql-http';

const { CORDON_URL: url, CORDON_TOKEN: token } = process.env;
const fetchFn = (address, init = {}) => fetch(address, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } });
const found = await auditServer({ url, fetchFn });
console.log(JSON.stringify(found.map(({ id, name, status, reason }) => ({ id, name, status, reason }))));
