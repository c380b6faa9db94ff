#!/bin/sh
# Makes with OpenSSL alone what build_chain.sh of FISCO BCOS 3.x makes for what one node shows to applications, and for one
# application: an RSA chain of one authority, whose leaves may issue nothing.
# Usage: openssl_chain_3x.sh DIR
set -eu
mkdir -p "$1/ca" "$1/conf" "$1/sdk"
cd "$1"
printf '[req]\ndistinguished_name=dn\n[dn]\n' >empty.cnf
printf 'basicConstraints=CA:FALSE\n' >leaf.ext
openssl genrsa -out ca/ca.key 2048 2>/dev/null
openssl req -new -x509 -days 30 -config empty.cnf -key ca/ca.key -subj /CN=FISCO-BCOS-7/O=FISCO-BCOS-7/OU=chain -out ca/ca.crt
leaf() {
    openssl genrsa 2048 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1.key"
    openssl req -new -sha256 -config empty.cnf -key "$1.key" -subj /CN=FISCO-BCOS-7/O=fisco-bcos/OU=agency -out request.csr
    openssl x509 -req -sha256 -days 30 -in request.csr -CA ca/ca.crt -CAkey ca/ca.key -CAcreateserial -extfile leaf.ext \
        -out "$1.crt" 2>/dev/null
    cp ca/ca.crt "$(dirname "$1")/ca.crt"
}
leaf conf/ssl
leaf sdk/sdk
